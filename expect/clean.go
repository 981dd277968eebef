package expect

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// Cleaned says what was removed.
type Cleaned struct{ Shadows, Expectations int }

// Left counts the shadows that an earlier run left in the calling thread's network namespace, and what hangs on them.
func Left() (left Cleaned, err error) {
	conn, err := nfnl.Dial()
	if err != nil {
		return left, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	shadows, expectations, err := shadowsThere(conn)
	return Cleaned{len(shadows), expectations}, err
}

// Clean removes the shadows that any run left in the calling thread's network namespace, with their expectations.
func Clean() (done Cleaned, err error) {
	conn, err := nfnl.Dial()
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	shadows, expectations, err := shadowsThere(conn)
	if err != nil {
		return done, err
	}
	done.Expectations = expectations
	for _, c := range shadows {
		if err := conn.DeleteConnection(c.Orig, c.Zone); err != nil && !errors.Is(err, unix.ENOENT) {
			return done, err
		}
		done.Shadows++
	}
	return done, nil
}

// shadowsThere lists all shadows, whosever they are, and counts the expectations on them.
func shadowsThere(conn *nfnl.Conn) (shadows []nfnl.Connection, expectations int, err error) {
	masters := map[nfnl.Tuple]bool{}
	if err := conn.Connections(unix.AF_UNSPEC, func(c *nfnl.Connection) {
		if isShadow(c) {
			shadows = append(shadows, *c)
			masters[c.Orig] = true
		}
	}); err != nil {
		return nil, 0, err
	}
	err = conn.Expectations(unix.AF_UNSPEC, func(e *nfnl.Expectation) {
		if masters[e.Master] {
			expectations++
		}
	})
	return shadows, expectations, err
}

// CleanObjects deletes the helper objects of all helpers that no connection of the machine carries. They are the
// machine's: deleting one closes, in every network namespace, what hangs on it. kept are those that are in use; err says
// why others may be and are kept too.
func CleanObjects(all []helpers.Helper) (deleted int, kept []string, err error) {
	conn, err := nfnl.Dial()
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	there, err := conn.Helpers()
	if errors.Is(err, nfnl.ErrNoHelperObjects) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, err
	}
	there = slices.DeleteFunc(there, func(o nfnl.HelperObject) bool {
		return !slices.ContainsFunc(all, func(h helpers.Helper) bool { return o.Name == Label(h.Name) || o.Name == Reading(h.Name) })
	})
	if len(there) == 0 {
		return 0, nil, nil
	}
	used, err := labelsInUse()
	if err != nil {
		return 0, nil, fmt.Errorf("helper objects are kept: %w", err)
	}
	for i := range there {
		o := &there[i]
		if used[o.Name] {
			kept = append(kept, o.Name)
			continue
		}
		switch err := conn.DeleteHelper(o); {
		case err == nil:
			deleted++
		case errors.Is(err, unix.EBUSY): // a rule uses it
			kept = append(kept, o.Name)
		default:
			return deleted, kept, err
		}
	}
	return deleted, slices.Compact(kept), nil
}

// isShadow recognises a shadow by its helper, which no packet's connection has.
func isShadow(c *nfnl.Connection) bool {
	if c.Helper == "" || !shadowLike(c) {
		return false
	}
	return isLabel(c.Helper) ||
		slices.ContainsFunc(inKernel, func(in carrier) bool { return in.name == c.Helper })
}

// shadowLike says that c is what no packet makes: assured, with port 0 where the server's is.
func shadowLike(c *nfnl.Connection) bool {
	return c.Orig.DstPort == 0 && c.Reply.SrcPort == 0 && c.Status&nfnl.StatusAssured != 0 &&
		(c.Orig.Proto == unix.IPPROTO_TCP || c.Orig.Proto == unix.IPPROTO_UDP)
}

// Counts are how many expectations the calling thread's network namespace has now, and how many the kernel allows
// (nf_conntrack_expect_max, one number for all namespaces).
func Counts() (used, most int, err error) {
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_expect_max")
	if err != nil {
		return 0, 0, err
	}
	if most, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
		return 0, 0, err
	}
	conn, err := nfnl.Dial()
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	for _, family := range families {
		if err := conn.Expectations(family, func(*nfnl.Expectation) { used++ }); err != nil {
			return 0, 0, err
		}
	}
	return used, most, nil
}
