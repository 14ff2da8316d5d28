package tree

import (
	"bytes"
	"fmt"

	"github.com/pulkdb/db/pagecache"
)

// appendTriesMax is after how many lost compare-and-swaps a write takes the
// leaf's writer bit, which ends the race on a busy leaf.
const appendTriesMax = 4

// An addition is one change of one key on its way into the tree.
type addition struct {
	key   []byte
	delta []byte // nil until prepare, if the value has pages of its own
	hint  uint16

	expect expectation

	pages [][]byte // chunk pages of a large value
	total int      // its length
	draft *draft   // of a streamed value: ended with this

	settling bool // it comes from settle: the leaf is not looked after again
}

// An expectation is what a conditional write must find.
type expectation struct {
	kind  expectKind
	value []byte // expectStored: as stored
	flags byte   // expectStored: entryIndirect or 0, or those of pile.stored
}

type expectKind uint8

const (
	expectAny     expectKind = iota
	expectPresent            // the key has a value, or its leaf is not in memory
	expectAbsent             // it has none
	expectStored             // it has this one
)

// blind reports whether the addition may be put on a leaf that is not in memory: it
// would be right whatever the leaf holds.
func (a *addition) blind() bool {
	return a.expect.kind == expectAny || a.expect.kind == expectPresent
}

// met reports whether the leaf, which is in memory, is as expected.
func (x *expectation) met(p *place, key []byte) (bool, error) {
	if x.kind == expectAny {
		return true, nil
	}
	f, err := lookup(p, key, newestMoment)
	switch {
	case err != nil:
		return false, err
	case x.kind == expectPresent:
		return f.ok, nil // operands count: to fold them is not for under a writer bit
	case x.kind == expectAbsent:
		return !f.ok, nil
	case f.flags&entryOperand != 0:
		if x.flags&entryOperand == 0 {
			return false, nil
		}
		now, err := gather(p, key, newestMoment)
		stored := now.stored()
		return err == nil && stored.flags == x.flags && bytes.Equal(stored.value, x.value), err
	}
	return f.ok && f.flags&entryIndirect == x.flags && bytes.Equal(f.value, x.value), nil
}

// Set gives key the value. The linearization point is the compare-and-swap of
// its leaf's slot. Errors: ErrTooLarge, ErrReadOnly, ErrClosed, and the log's
// failure.
func (t *Tree) Set(key, value []byte) error {
	_, err := t.write(key, value, 0, expectation{})
	return err
}

// Delete removes key. If its leaf is in memory and lacks it nothing is written. A
// leaf that is not in memory is not read: it gets the tombstone, which goes when
// the leaf is folded.
func (t *Tree) Delete(key []byte) error {
	done, err := t.write(key, nil, entryTombstone, expectation{kind: expectPresent})
	if err == nil && !done {
		err = t.waitForRead()
	}
	return err
}

// CompareAndSwap replaces old by new, if old is key's value. A nil old means that
// key must be absent, a nil new removes it. If not swapped, current is the value
// found, nil if absent.
func (t *Tree) CompareAndSwap(key, old, new []byte) (swapped bool, current []byte, err error) {
	flags := byte(0)
	if new == nil {
		flags = entryTombstone
	}
	x := expectation{kind: expectStored, value: old}
	if old == nil {
		x.kind = expectAbsent
	}
	for {
		if old == nil && new == nil {
			swapped, err = t.absent(key)
		} else {
			swapped, err = t.write(key, new, flags, x)
		}
		if err != nil || swapped {
			return swapped, nil, err
		}
		found, stored, err := t.current(key)
		if err != nil {
			return false, nil, err
		}
		if (old == nil) != (found == nil) || !bytes.Equal(old, found) {
			return false, found, t.waitForRead()
		}
		// It is what is wanted, in another form or since a moment ago.
		if old != nil || stored.flags&entryOperand != 0 {
			x = stored
		} else {
			x = expectation{kind: expectAbsent}
		}
	}
}

// absent reports whether key is absent: a swap of nothing for nothing.
func (t *Tree) absent(key []byte) (bool, error) {
	if t.options.Cache.ReadOnly {
		return false, ErrReadOnly
	}
	found, err := t.Has(key)
	if err != nil || found {
		return false, err
	}
	return true, t.waitForRead()
}

// current returns key's value, nil if it is absent, and how it is stored.
func (t *Tree) current(key []byte) (value []byte, stored expectation, err error) {
	s := seek{key: key}
	var gone []byte // the list of chunks that has lost one
	for {
		g, p, err := t.locate(0, &s, 0)
		if err != nil {
			return nil, stored, err
		}
		f, err := lookup(&p, key, newestMoment)
		if err != nil || !f.ok {
			g.Unpin()
			return nil, stored, err
		}
		x, err := gatherFound(&p, key, newestMoment, f)
		g.Unpin()
		if err != nil {
			return nil, stored, err
		}
		stored = expectation{kind: expectStored, value: x.base, flags: x.flags}
		switch {
		case f.flags&entryOperand != 0:
			stored = x.stored()
		case f.flags&entryIndirect == 0:
			return append([]byte{}, x.base...), stored, nil
		}
		value, present, current, err := t.foldPile([]byte{}, key, &x)
		if err != nil || current {
			if !present {
				value = nil
			}
			return value, stored, err
		}
		if gone, err = stillGone(gone, &x, key); err != nil {
			return nil, stored, err
		}
	}
}

// write adds one change and waits until it is durable, if it is asked to. It
// reports false, and does nothing, if the leaf is not as expected.
func (t *Tree) write(key, value []byte, flags byte, x expectation) (bool, error) {
	if err := t.writable(key, value); err != nil {
		return false, err
	}
	a := addition{key: key, hint: hintOf(key), expect: x}
	if len(value) > t.streamMin {
		return t.stream(&a, bytes.NewReader(value), len(value))
	}
	if len(value) > t.inlineMax {
		a.pages, a.total = t.chunkPages(value), len(value)
	} else {
		b := t.getScratch()
		defer t.putScratch(b)
		*b = appendOne(*b, kindLeafOne, flags, key, value)
		a.delta = *b
	}
	lsn, done, err := t.add(&a)
	if err != nil || !done {
		return false, err
	}
	return true, t.wait(lsn)
}

// writable checks what every write must check, and waits if the cache wants it.
func (t *Tree) writable(key, value []byte) error {
	switch {
	case t.closed.Load():
		return ErrClosed
	case t.options.Cache.ReadOnly:
		return ErrReadOnly
	case len(key) > MaxKeyBytes:
		return fmt.Errorf("%w: key of %d bytes", ErrTooLarge, len(key))
	case len(value) > MaxValueBytes:
		return fmt.Errorf("%w: value of %d bytes", ErrTooLarge, len(value))
	}
	return t.cache.Throttle()
}

// add puts a on its leaf: by compare-and-swap, or under the writer bit after a
// few tries or if pages go with it.
func (t *Tree) add(a *addition) (lsn pagecache.LSN, done bool, err error) {
	s := seek{key: a.key}
	from := t.atTail(a.key) // a retry may start at the leaf found (T3)
	for try := 0; a.pages == nil && try < appendTriesMax; try++ {
		g, p, err := t.locateToAdd(from, &s, a)
		if err != nil {
			return 0, false, err
		}
		if p.absent == 0 {
			met, err := a.expect.met(&p, a.key)
			if err != nil || !met {
				g.Unpin()
				return 0, false, err
			}
		}
		replaces := p.absent == 0 && t.replacesLarge(&p, a)
		yield(yieldUpdateRouted)
		r, err := t.cache.Append(g, p.view, a.delta, a.hint)
		due := err == nil && p.absent == 0 && r.Outcome == pagecache.Done && t.leafDue(&p, r) && !a.settling
		leaf := p.view.PID()
		if p.absent == 0 {
			from = leaf // an absent one is routed to anew
			if p.node.isLast() && t.tail.Load() != uint64(leaf) {
				t.tail.Store(uint64(leaf))
			}
		}
		g.Unpin()
		if err != nil {
			return 0, false, err
		}
		if r.Outcome == pagecache.Done {
			t.finish(p.moved)
			switch {
			case replaces:
				t.dropReplaced(leaf)
			case p.absent != 0:
				t.tendBlind(leaf, r)
			case due:
				t.tend(leaf)
			}
			return r.LSN, true, nil
		}
		t.metrics.retries.Add(1)
	}
	return t.addOwned(a, from)
}

// atTail returns the last leaf, if it is known and key belongs there, or 0: a load in
// key order does without walks from the root, which were a third of its cost.
func (t *Tree) atTail(key []byte) PID {
	pid := PID(t.tail.Load())
	if pid == 0 {
		return 0
	}
	g := t.cache.Pin()
	defer g.Unpin()
	v, err := t.cache.Peek(g, pid)
	if err != nil || !v.Resident() {
		return 0
	}
	n, err := asNode(v.Base())
	if err != nil || n.level() != 0 || !n.isLast() || bytes.Compare(n.lo(), key) > 0 {
		return 0
	}
	return pid
}

// leafDue reports whether a leaf wants to be looked after: at enough deltas, and
// whenever the bytes of its deltas pass another half of a node.
func (t *Tree) leafDue(p *place, r pagecache.Result) bool {
	half := t.options.MaxNodeBytes / 2
	base := len(p.view.Base())
	return r.Deltas >= t.options.Cache.MergeDeltas || (r.Size-base)/half != (p.view.Size()-base)/half
}

// addOwned puts a on its leaf under the leaf's writer bit. The pages that go with
// it are in the same record.
func (t *Tree) addOwned(a *addition, from PID) (lsn pagecache.LSN, done bool, err error) {
	t.metrics.owned.Add(1)
	s := seek{key: a.key}
	for {
		g, p, err := t.locateToAdd(from, &s, a)
		if err != nil {
			return 0, false, err
		}
		to := route{pid: p.view.PID()}
		if p.absent != 0 {
			to.version, to.blind = p.view.Version(), true
		} else {
			from = to.pid
		}
		g.Unpin()
		yield(yieldUpdateRouted)
		u := t.cache.Begin()
		r, absent, done, err := t.commitOwned(u, a, &to)
		switch {
		case err != nil || absent == 0 && !done:
			return 0, false, err
		case absent == 0:
			t.finish(p.moved)
			switch {
			case to.replaces || a.draft != nil && to.blind:
				t.dropReplaced(to.pid)
			case to.blind:
				t.tendUnread(to.pid)
			case !a.settling:
				t.tendIfDue(to.pid)
			}
			return r.LSN, true, nil
		}
		if to.blind {
			continue // the leaf has changed since it was routed to
		}
		if err := t.cache.Load(absent); err != nil {
			return 0, false, err
		}
	}
}

// A route says which leaf an addition goes to. A blind one holds while the leaf's
// page version does: a split would raise it (blind.go).
type route struct {
	pid     PID
	version uint64
	blind   bool // the leaf was not in memory

	replaces bool // set by commitOwned: the addition is known to replace a streamed value
}

// commitOwned uses up u. absent is a page that must be loaded, or routed to anew,
// first; done is false if the leaf is not as expected.
func (t *Tree) commitOwned(u *pagecache.Update, a *addition, to *route) (r pagecache.Result, absent PID, done bool, err error) {
	committed := false
	defer func() {
		if !committed {
			u.Discard()
		}
	}()
	if err := t.prepare(a, u); err != nil {
		return r, 0, false, err
	}
	p, _, err := t.own(u, to.pid, &seek{key: a.key}, 0)
	switch {
	case err == errStale:
		to.blind = true // nothing is to be loaded
		return r, to.pid, false, nil
	case err != nil:
		return r, 0, false, err
	case p.absent == 0:
		to.pid, to.blind = p.view.PID(), false
		to.replaces = t.replacesLarge(&p, a)
		met, err := a.expect.met(&p, a.key)
		if err != nil || !met {
			return r, 0, false, err
		}
	case !to.blind || p.absent != to.pid || p.view.Version() != to.version:
		return r, p.absent, false, nil
	}
	u.Append(p.view, a.delta, a.hint)
	if a.draft != nil {
		if err := a.draft.end(u); err != nil {
			return r, 0, false, err
		}
	}
	committed = true
	r, err = u.Commit()
	return r, 0, err == nil, err
}

// own acquires the node of the level that s wants, to which pid or nodes to its
// right lead (T3). What u owned before it goes on owning, even where that is only a
// step on the way: its reads may have been validated there. held says that the node
// found is such a one. It fails with errStale if pid does not lead there, and then
// has acquired nothing.
func (t *Tree) own(u *pagecache.Update, pid PID, s *seek, level int) (p place, held bool, err error) {
	for {
		held = u.Owns(pid)
		v, err := u.Acquire(pid)
		if err == pagecache.ErrGone {
			return place{}, false, errStale
		}
		if err != nil {
			return place{}, false, err
		}
		if !v.Resident() {
			return place{view: v, absent: pid}, held, nil
		}
		if !s.leads(v, level) || node(v.Base()).level() != level {
			if !held {
				u.Release(pid)
			}
			return place{}, false, errStale
		}
		n := node(v.Base())
		if !s.beyond(n) {
			return place{view: v, node: n}, held, nil
		}
		if !held {
			u.Release(pid)
		}
		pid = n.right()
	}
}
