package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// askFrom is how many entries a terminal is asked about before they are touched.
const askFrom = 10

// careful are the options of commands that touch many entries of a table.
type careful struct {
	DryRun bool `group:"Safety" help:"Touch nothing, say how many would be."`
	Yes    bool `short:"y" group:"Safety" help:"Ask nothing. Otherwise, with a terminal, from 10 entries on there is a question."`
}

// may says whether to go on with n entries; verb is what will be done, and noun what to.
func (k *careful) may(c *context, verb, noun string, n func() (uint64, error)) (bool, error) {
	if !k.DryRun && (k.Yes || !c.asking()) {
		return true, nil
	}
	touched, err := n()
	if err != nil {
		return false, err
	}
	if k.DryRun {
		c.say("would %s %s", verb, amount(touched, noun))
		return false, nil
	}
	if touched < askFrom {
		return true, nil
	}
	fmt.Fprintf(c.stderr, "%s %s? [y/N] ", strings.ToUpper(verb[:1])+verb[1:], amount(touched, noun))
	answer, err := bufio.NewReader(c.stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true, nil
	}
	c.say("nothing was touched")
	c.code = exitFailed
	return false, nil
}

// flush empties a table.
func (k *careful) flush(c *context, noun string, counted func() (uint64, error), flush func() error) error {
	if ok, err := k.may(c, "delete", noun, counted); err != nil || !ok {
		return err
	}
	if err := flush(); err != nil {
		return err
	}
	c.say("the %s table has been emptied", noun)
	return nil
}

// entries is how many of a table's count there are, without its limit.
func entries[N int | uint32](n, _ N, err error) (uint64, error) { return uint64(n), err }
