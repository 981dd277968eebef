package daemon

import (
	"errors"
	"fmt"
	"io"
)

type rulesCommand struct{ configFile }

func (c rulesCommand) Run(p *program) error { panic("wait") }

type doctorCommand struct{ configFile }

func (c doctorCommand) Run(p *program) error { panic("wait") }

type cleanupCommand struct{}

func (cleanupCommand) Run(p *program) error { panic("wait") }

var _ = errors.New
var _ = fmt.Sprint
var _ io.Writer
