package tree

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/pagecache"
)

// A seek says which node of a level is wanted: the one with lo <= key < hi; if
// strict, the one with lo < key <= hi, for what lies before key; if last, the
// rightmost.
type seek struct {
	key    []byte
	strict bool
	last   bool
	loaded bool // set by locate: it had to load a node
	scan   bool // it is one step of a scan: that a page is read says nothing of the next time
}

// A place is a node as one View shows it, and how it was reached.
type place struct {
	view   pagecache.View
	node   node // nil if the tree has no such level yet
	moved  PID  // a node on the way that was left to the right: its split is half done
	absent PID  // a node on the way that is not in memory: of the rest only above, view and level are valid
	level  int  // of absent; levelUnknown if nothing tells
	worn   PID  // an inner node on the way that has deltas

	above pagecache.View // the node of level 1 whose child view shows; zero if it was reached from the left
}

const levelUnknown = -1

// beyond reports whether what s wants lies right of n.
func (s *seek) beyond(n node) bool {
	switch {
	case s.last:
		return !n.isLast()
	case s.strict:
		return !n.isLast() && bytes.Compare(s.key, n.hi()) > 0
	}
	return n.beyond(s.key)
}

// child returns the child of the inner node where the descent goes on: that of
// the greatest fitting separator in the base and in the deltas.
func (s *seek) child(v pagecache.View, n node) PID {
	i := n.count() - 1
	if !s.last {
		i = n.floor(s.key, s.strict)
	}
	pid := n.child(i)
	if v.Deltas() == 0 {
		return pid
	}
	var best []byte // the separator of pid, if it is a delta's
	for d := v.Newest(); d.Valid(); d = d.Older() {
		c, ok := s.childIn(delta(d.Data()))
		if !ok {
			continue
		}
		if best == nil {
			if at, equal := n.search(c.key); at <= i || at == i+1 && equal {
				continue // the base has a greater one, or this one
			}
		} else if bytes.Compare(c.key, best) <= 0 {
			continue
		}
		pid, best = childOf(c.value), c.key
	}
	return pid
}

func (s *seek) childIn(d delta) (change, bool) {
	if _, err := asDelta(d); err != nil || !d.isInner() {
		return change{}, false
	}
	if s.last {
		return d.at(d.count() - 1)
	}
	return d.floor(s.key, s.strict)
}

// errStale says that a page was joined away, or was none of the tree's any more,
// between two looks: the walk begins at the root again.
var errStale = errors.New("tree: page was joined away")

func ignoreStale(err error) error {
	if err == errStale {
		return nil
	}
	return err
}

// staleTriesMax is how often a walk meets a page that has just gone before that is
// damage: each time another join must have come between.
const staleTriesMax = 10000

// descend walks from the root to the node of the level that s wants (T2), or from
// page hint, if that is not 0 and is still on the way there (T3). It does no I/O:
// see place.absent.
func (t *Tree) descend(g epoch.Guard, hint PID, s *seek, level int) (p place, err error) {
	for try := 0; ; try++ {
		p, err = t.walk(g, hint, s, level)
		if err != errStale {
			return p, err
		}
		if hint == 0 && try > staleTriesMax {
			return p, fmt.Errorf("%w: page %d is referred to and free", ErrCorrupt, p.absent)
		}
		hint = 0
		if try > 0 {
			spin()
		}
	}
}

// leads reports whether page hint, as v shows it, is a node on the way to what s
// wants.
func (s *seek) leads(v pagecache.View, level int) bool {
	if !v.Resident() {
		return false
	}
	n, err := asNode(v.Base())
	if err != nil || n.level() < level {
		return false
	}
	c := bytes.Compare(n.lo(), s.key)
	return s.last || c < 0 || c == 0 && !s.strict
}

// walk is one try of descend. With errStale, p.absent is the page that was gone.
func (t *Tree) walk(g epoch.Guard, hint PID, s *seek, level int) (p place, err error) {
	pid := hint
	if hint == 0 {
		pid = t.root.Load().pid
	}
	p.level = levelUnknown
	for {
		v, err := t.view(g, pid, s)
		if err == pagecache.ErrGone {
			return place{absent: pid}, errStale
		}
		if err != nil {
			return p, err
		}
		if hint != 0 && !s.leads(v, level) {
			return place{absent: pid}, errStale
		}
		hint = 0
		if !v.Resident() {
			p.absent, p.view = pid, v
			return p, nil
		}
		n, err := asNode(v.Base())
		if err != nil {
			return p, fmt.Errorf("page %d: %w", pid, err)
		}
		at := n.level()
		if s.beyond(n) {
			if p.moved == 0 {
				p.moved = pid
			}
			pid = n.right()
			p.above, p.level = pagecache.View{}, at
			continue
		}
		if at <= level {
			p.view = v
			if at == level {
				p.node = n
			}
			return p, nil
		}
		if v.Deltas() > 0 {
			p.worn = pid
		}
		pid = s.child(v, n)
		p.level = at - 1
		if at == 1 {
			p.above = v
			t.cache.Prefetch(pid, leafLines)
		}
	}
}

// leafLines is how many cache lines of a leaf are asked for at once, before the
// first of them is there: headers, heads and offsets of some 60 entries. What a
// search would meet as three misses in a row is one.
const leafLines = 12

// view views a page for s.
func (t *Tree) view(g epoch.Guard, pid PID, s *seek) (pagecache.View, error) {
	if s.scan {
		return t.cache.Peek(g, pid)
	}
	return t.cache.View(g, pid)
}

// locate descends as often as it takes to load what is missing, and returns the
// guard under which the place is valid. On error no guard is held.
func (t *Tree) locate(from PID, s *seek, level int) (epoch.Guard, place, error) {
	for {
		g := t.cache.Pin()
		p, err := t.descend(g, from, s, level)
		if err == nil && p.absent == 0 {
			return g, p, nil
		}
		g.Unpin()
		if err != nil {
			return g, p, err
		}
		if err := t.load(p.absent, s.scan); err != nil {
			return g, p, err
		}
		s.loaded = true
	}
}

// load brings a node into memory and checks it completely: searches trust what
// it says of itself. Checksums have found damage before; this finds what was
// wrong when it was written.
func (t *Tree) load(pid PID, scan bool) error {
	load := t.cache.Load
	if scan {
		load = t.cache.LoadToScan
	}
	if err := load(pid); err != nil {
		return err
	}
	g := t.cache.Pin()
	defer g.Unpin()
	v, err := t.cache.Peek(g, pid)
	if err != nil || !v.Resident() {
		return nil // the next View says what is the matter
	}
	n := node(v.Base())
	if !isNode(n) {
		return nil // the page was freed meanwhile, and its PID is used again
	}
	if err := n.validate(); err != nil {
		return fmt.Errorf("page %d: %w", pid, err)
	}
	if v.Deltas() == 0 {
		t.thin.noteIf(pid, n)
	}
	return nil
}
