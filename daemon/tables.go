package daemon

import (
	"log/slog"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/config"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/internal/rules"
	"github.com/cthelperd/cthelperd/queue"
)

type tables struct {
	events chan event
	failed error
}
type event struct{}

func openTables(cfg *config.Config, log *slog.Logger) (*tables, error) { panic("wait") }
func (t *tables) Do(engine.Request) error                              { panic("wait") }
func (t *tables) way() string                                          { panic("wait") }
func (t *tables) reload(cfg *config.Config) error                      { panic("wait") }
func (t *tables) packetConn(p *queue.Packet) *engine.Conn              { panic("wait") }
func (t *tables) close() error                                         { panic("wait") }
func (d *daemon) event(event)                                          { panic("wait") }
func (d *daemon) resync()                                              { panic("wait") }
func (d *daemon) lookup(t helpers.Transport, seen helpers.Tuple) (engine.Conn, error) {
	panic("wait")
}
func (d *daemon) rulesConfig(cfg *config.Config) rules.Config { panic("wait") }
