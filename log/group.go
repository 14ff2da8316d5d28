package log

import "errors"

// A Group is a record too large for one: parts, each reserved and completed
// like a record, of which replay delivers all or none. It counts once the last
// part does. A group belongs to one goroutine.
//
// Until it is finished or abandoned it holds the replay start back (L7).
type Group struct {
	log    *Log
	stream Stream
	index  uint32
	broken bool // a part was aborted: the last must not be written

	// Guarded by Log.groupsMu.
	first    LSN // of the first part; a bound from below until it is reserved
	end      LSN // behind the last part, when it is completed
	reserved bool
}

var errGroupBroken = errors.New("log: a part of the group was aborted")

// NewGroup begins a group in a stream.
func (l *Log) NewGroup(s Stream) *Group { return &Group{log: l, stream: s} }

// Reserve takes space for the next part; n is as for Log.Reserve. All parts but
// the last are completed with stamp 0, and the stamp of the last one counts for
// the updates of all. If the last one is aborted, it can be reserved again. If
// another is aborted, the group can only be abandoned.
func (g *Group) Reserve(n int, last bool) (Reservation, error) {
	l := g.log
	if err := l.writable(); err != nil {
		return Reservation{}, err
	}
	if g.broken {
		return Reservation{}, errGroupBroken
	}
	if g.index == 0 {
		l.groupsMu.Lock()
		g.first = l.streams[g.stream].tail()
		l.groups[g] = struct{}{}
		l.groupsMu.Unlock()
	}
	kind := recordGroupPart
	if last {
		kind = recordGroupLast
	}
	r, err := l.reserve(g.stream, n, kind)
	if err != nil {
		return r, err
	}
	if !g.reserved {
		l.groupsMu.Lock()
		g.first, g.reserved = r.lsn, true
		l.groupsMu.Unlock()
	}
	r.group, r.first, r.index = g, g.first, g.index
	if !last {
		g.index++
	}
	return r, nil
}

// Abandon gives the group up: replay will drop its parts. After the last part
// was completed it does nothing.
func (g *Group) Abandon() {
	g.log.groupsMu.Lock()
	defer g.log.groupsMu.Unlock()
	if g.end == 0 {
		delete(g.log.groups, g)
	}
	g.broken = true
}

func (g *Group) finish(end LSN) {
	g.log.groupsMu.Lock()
	defer g.log.groupsMu.Unlock()
	g.end = end
	if g.log.options.Discard {
		delete(g.log.groups, g) // nobody asks for a replay start
	}
}

// Marks are one LSN per stream.
type Marks [streams]LSN

// ReplayStart returns where a replay must begin that is to deliver all that is
// not complete now: in each stream its completed prefix, or the first part of an
// older group. A group that ends behind the prefix is included, finished or not,
// so that no replay begins inside one (L7).
func (l *Log) ReplayStart() Marks {
	if !l.started.Load() {
		return Marks(l.recoveredEnd)
	}
	l.groupsMu.Lock()
	defer l.groupsMu.Unlock()
	var start Marks
	for i := range l.streams {
		st := &l.streams[i]
		prefix := st.completedPrefix()
		start[i] = prefix
		for g := range l.groups {
			switch {
			case g.stream != st.id:
			case g.end != 0 && g.end <= prefix:
				delete(l.groups, g)
			default:
				start[i] = min(start[i], g.first)
			}
		}
	}
	return start
}
