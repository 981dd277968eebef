package config

import (
	"fmt"
	"slices"
	"strings"
)

// owner is the enabled helper other than s that reads p.
func (c *Config) owner(s served, p port) string {
	for _, o := range c.served {
		if o.enabled && o.helper.Name != s.helper.Name && o.helper.Transport == p.transport && slices.Contains(o.helper.Ports, p.number) {
			return o.helper.Name
		}
	}
	return ""
}

// AddPorts adds server ports to a helper, or by a protocol's name to each of its helpers that has ports of its own.
// An error says what is known, or who has the port already.
func (c *Config) AddPorts(name string, ports ...uint16) error {
	found, err := c.find(name)
	if err != nil {
		return err
	}
	for _, i := range found {
		s := &c.served[i]
		if len(s.helper.Ports) == 0 && s.helper.Name != name { // reached by an announcement only
			continue
		}
		for _, p := range ports {
			if p == 0 {
				return fmt.Errorf("%s: 0 is not a port", name)
			}
			if other := c.owner(*s, port{s.helper.Transport, p}); other != "" {
				return fmt.Errorf("%s: %v port %d is read by helper %s", name, s.helper.Transport, p, other)
			}
			if !slices.Contains(s.helper.Ports, p) {
				s.helper.Ports = append(s.helper.Ports, p)
			}
		}
	}
	return nil
}

// Only enables the named helpers, or all helpers of a named protocol, and no others. An error says what is known.
func (c *Config) Only(names ...string) error {
	wanted := map[int]bool{}
	for _, name := range names {
		found, err := c.find(name)
		if err != nil {
			return err
		}
		for _, i := range found {
			wanted[i] = true
		}
	}
	for i := range c.served {
		c.served[i].enabled = wanted[i]
	}
	return nil
}

// find is the helper called name, else all helpers of the protocol called name, as indices into served.
func (c *Config) find(name string) ([]int, error) {
	var ofProtocol []int
	var known []string
	for i, s := range c.served {
		if s.protocol == name {
			ofProtocol = append(ofProtocol, i)
		}
		for _, n := range []string{s.protocol, s.helper.Name} {
			if !slices.Contains(known, n) {
				known = append(known, n)
			}
		}
	}
	if len(ofProtocol) > 0 {
		return ofProtocol, nil
	}
	for i, s := range c.served {
		if s.helper.Name == name {
			return []int{i}, nil
		}
	}
	return nil, fmt.Errorf("unknown protocol or helper %q: known are %s", name, strings.Join(known, ", "))
}
