package expect

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// saved is what Save writes of one shadow. Group is the shadow's that is its session's first on the connection.
type saved struct {
	Session     uint64
	Group       nfnl.Tuple
	Reading     bool
	Orig, Reply nfnl.Tuple
	Zone        uint16
	Mark        uint32
	Carrier     savedCarrier
	Until       time.Time
	Placed      []savedPlace
}

type savedCarrier struct {
	Name    string
	L4      uint8
	Own     bool
	Classes []savedClass
}

type savedClass struct {
	Capacity int
	Timeout  uint32
}

type savedPlace struct {
	ID    ID
	Tuple nfnl.Tuple
	Class uint8
}

// Save is what is in the kernel's table, for Load in another process; it stays there.
func (k *Kernel) Save() ([]byte, error) {
	all := []saved{}
	for key, g := range k.groups {
		for _, s := range g.shadows {
			one := saved{
				Session: key.session, Group: key.orig, Reading: key.reading, Orig: s.orig, Reply: s.reply, Zone: s.zone, Mark: s.mark,
				Until:   s.until,
				Carrier: savedCarrier{Name: s.carrier.name, L4: s.carrier.l4, Own: s.carrier.own},
			}
			for _, c := range s.carrier.classes {
				one.Carrier.Classes = append(one.Carrier.Classes, savedClass{c.capacity, c.timeout})
			}
			for _, id := range s.ids {
				p := k.placed[id]
				one.Placed = append(one.Placed, savedPlace{id, p.tuple, p.class})
			}
			all = append(all, one)
		}
	}
	return json.Marshal(all)
}

// Load takes over what Save wrote. It fails as a whole or not at all.
func (k *Kernel) Load(state []byte) error {
	var all []saved
	if err := json.Unmarshal(state, &all); err != nil {
		return fmt.Errorf("state of the expectation table: %w", err)
	}
	for _, one := range all {
		for _, p := range one.Placed {
			if int(p.Class) >= maxClasses {
				return fmt.Errorf("state of the expectation table: an expectation of class %d", p.Class)
			}
		}
	}
	for _, one := range all {
		c := &carrier{name: one.Carrier.Name, l4: one.Carrier.L4, own: one.Carrier.Own}
		for _, class := range one.Carrier.Classes {
			c.classes = append(c.classes, limits{class.Capacity, class.Timeout})
		}
		s := &shadow{
			name: name{one.Orig, one.Zone}, reply: one.Reply, mark: one.Mark, until: one.Until, carrier: c,
		}
		key := groupName{one.Session, one.Reading, name{one.Group, one.Zone}}
		g := k.groupFor(&key)
		g.shadows = append(g.shadows, s)
		k.names[s.name] = s
		for _, p := range one.Placed {
			k.placed[p.ID] = place{s, p.Tuple, p.Class, len(s.ids)}
			s.ids = append(s.ids, p.ID)
			s.count[p.Class]++
		}
	}
	return nil
}
