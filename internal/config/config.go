// Package config turns the configuration file into values: which helpers read which ports, who may announce what, and
// how the daemon runs. Daemon and replay read the same file.
package config

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/engine"
)

// Config is a whole configuration. contrib/cthelperd.yaml explains every key.
type Config struct {
	Policy engine.Policy
	Limits engine.Limits // zero fields: the engine's default
	Queue  Queue
	Rules  Rules
	// FailClosed drops packets of control connections while nobody reads them; else they pass unseen.
	FailClosed bool
	// KeepOlder leaves the entries of connections under NAT that are older than the daemon as they are; else they get
	// new ones.
	KeepOlder bool
	State     string // file that keeps sessions over a restart; empty: they end with the daemon
	Log       Log

	served []served
}

// Queue is the netfilter queue, or several.
type Queue struct {
	Number uint16 // of the first
	Count  uint16 // how many, with numbers one after another
	Length uint32 // packets that wait in the kernel, at most, in each
	Buffer int    // bytes of each socket's receive buffer
	Driver Driver
}

// MaxQueues is the highest Count.
const MaxQueues = 64

// Driver says who speaks to the kernel's queues.
type Driver string

const (
	DriverOwn       Driver = "own"
	DriverReference Driver = "go-nfqueue" // the library, to compare with
)

// Rules says who queues the packets of control connections.
type Rules string

const (
	RulesInstall Rules = "install" // the daemon, by its own table
	RulesNone    Rules = "none"    // the administrator, by rules such as `cthelperd rules` prints
)

// Log is how the daemon writes its log, on standard error.
type Log struct {
	JSON  bool
	Level slog.Level
}

// The built-in default of what has no default in package engine.
const (
	DefaultQueue  = 2021
	DefaultLength = 4096
	DefaultBuffer = 16 << 20
)

// served is a helper with its ports and whether it is wanted.
type served struct {
	protocol string
	enabled  bool
	helper   helpers.Helper
}

// Default is the built-in configuration: all helpers on their standard ports, the daemon's own rules, fail-open. An
// error names the protocol that breaks the contract.
func Default(protocols []helpers.Protocol) (*Config, error) {
	return parse("built-in configuration", nil, protocols)
}

// Load reads a file. Errors are those of the file system, or Errors that say where and what to do.
func Load(path string, protocols []helpers.Protocol) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	return Parse(path, data, protocols)
}

// Parse reads data as the content of a file called name. An error is an Errors, or says which protocol breaks the
// contract.
func Parse(name string, data []byte, protocols []helpers.Protocol) (*Config, error) {
	return parse(name, data, protocols)
}

func parse(name string, data []byte, protocols []helpers.Protocol) (*Config, error) {
	r := &reader{file: name}
	cfg := &Config{
		Queue: Queue{Number: DefaultQueue, Count: 1, Length: DefaultLength, Buffer: DefaultBuffer, Driver: DriverOwn},
		Rules: RulesInstall,
		Log:   Log{Level: slog.LevelInfo},
	}
	root := r.parse(data)
	sections, err := protocolSections(protocols)
	if err != nil {
		return nil, err
	}
	r.config(root, cfg, sections)
	if err := r.helpers(cfg, sections); err != nil {
		return nil, err
	}
	if err := r.errors(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// Helpers are the enabled helpers with their ports, in the order of the protocols.
func (c *Config) Helpers() []helpers.Helper {
	var out []helpers.Helper
	for _, s := range c.served {
		if s.enabled {
			out = append(out, s.helper)
		}
	}
	return out
}

// Engine is the engine's part; its Lookup and Record are the caller's to set.
func (c *Config) Engine() engine.Config {
	limits := c.Limits
	limits.HoldAll = max(1, int(c.Queue.Length/4)) // all may be in one queue, and others need room in it
	return engine.Config{Helpers: c.Helpers(), Policy: c.Policy, Limits: limits}
}
