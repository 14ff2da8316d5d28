package tree

import (
	"bytes"
	"fmt"

	"github.com/pulkdb/db/internal/testhooks"
)

// newestMoment sees every version.
const newestMoment = ^uint64(0)

// A found is the newest version of a key that a reader sees, borrowed.
type found struct {
	value []byte // as stored: the value, its chunk list, or operands
	flags byte
	ok    bool // the key is present, or has operands on top: see gather
}

// GetTo appends the value of key to dst. It returns dst unchanged with an error:
// ErrNotFound, ErrClosed, or what loading a page failed with. It takes no lock
// and allocates nothing if dst has room.
//
// The linearization point is the View of the leaf.
func (t *Tree) GetTo(dst, key []byte) ([]byte, error) { return t.getAt(newestMoment, dst, key) }

// getAt is GetTo as of a moment, which is open or newestMoment.
func (t *Tree) getAt(moment uint64, dst, key []byte) ([]byte, error) {
	if err := t.readable(); err != nil {
		return dst, err
	}
	s := seek{key: key}
	var gone []byte // the list of chunks that has lost one
	for {
		g, p, err := t.locate(0, &s, 0)
		if err != nil {
			return dst, err
		}
		if s.loaded {
			t.metrics.misses.Add(1)
			s.loaded = false
		}
		f, err := lookup(&p, key, moment)
		if err != nil || !f.ok {
			g.Unpin()
			t.finish(p.moved)
			return dst, notFound(err)
		}
		if f.flags&(entryIndirect|entryOperand) == 0 {
			if dst = append(dst, f.value...); dst == nil {
				dst = []byte{} // an empty value is a value
			}
			deltas := p.view.Deltas()
			g.Unpin()
			if p.moved != 0 {
				t.finish(p.moved)
			}
			if deltas > 0 || p.worn != 0 {
				t.smooth(&p, deltas)
			}
			return dst, nil
		}
		x, err := gatherFound(&p, key, moment, f)
		g.Unpin()
		if err != nil {
			return dst, err
		}
		out, present, current, err := t.foldPile(dst, key, &x)
		switch {
		case err != nil:
			return dst, err
		case current && !present:
			return dst, ErrNotFound
		case current:
			return out, nil
		}
		if gone, err = stillGone(gone, &x, key); err != nil {
			return dst, err
		}
	}
}

// stillGone returns the list of chunks in x, of which one is gone, or ErrCorrupt if it
// is the one that was found before. Chunks go when an entry has been replaced (T7), so
// who looks again finds another.
func stillGone(before []byte, x *pile, key []byte) ([]byte, error) {
	if before != nil && bytes.Equal(before, x.base) {
		return nil, fmt.Errorf("%w: value of %q has lost a chunk", ErrCorrupt, key)
	}
	return x.base, nil
}

// smooth folds, in memory, a page that a reader found deltas on, now and then: the
// more deltas, the sooner. Each delta costs a reader a cache miss or two, up to a
// third of a read in all, and folding costs about what thirty readers pay for one
// delta. So pages that are read and no longer written to lose their deltas, and
// those that are written to are folded by their writers as before.
func (t *Tree) smooth(p *place, deltas int) {
	x := testhooks.Random()
	pid := p.view.PID()
	switch {
	case p.worn != 0 && x%smoothOdds < smoothInner:
		pid = p.worn
	case int(x>>16%smoothOdds) >= deltas:
		return
	}
	g := t.cache.Pin()
	err := t.cache.TryFold(g, pid)
	g.Unpin()
	if err != nil {
		t.metrics.tendErrors.Add(1)
	}
}

const (
	smoothOdds  = 32 // of so many readers of a leaf with one delta one folds it
	smoothInner = 4  // and so many of those who met an inner node with deltas
)

// gatherFound returns the pile of what lookup has found: operands, or a value with
// pages of its own, which is a pile without operands.
func gatherFound(p *place, key []byte, moment uint64, f found) (pile, error) {
	if f.flags&entryOperand != 0 {
		return gather(p, key, moment)
	}
	return pile{base: append([]byte{}, f.value...), flags: f.flags & entryIndirect}, nil
}

func notFound(err error) error {
	if err == nil {
		return ErrNotFound
	}
	return err
}

// readable returns why nothing can be read: ErrClosed, or ErrNotFound if the
// store is empty and read-only.
func (t *Tree) readable() error {
	if t.closed.Load() {
		return ErrClosed
	}
	if t.root.Load() == nil {
		return ErrNotFound
	}
	return nil
}

// Has reports whether key is present.
func (t *Tree) Has(key []byte) (bool, error) { return t.hasAt(newestMoment, key) }

// hasAt is Has as of a moment, which is open or newestMoment. Operands have to be
// folded to tell.
func (t *Tree) hasAt(moment uint64, key []byte) (bool, error) {
	if err := t.readable(); err != nil {
		if err == ErrNotFound {
			err = nil
		}
		return false, err
	}
	s := seek{key: key}
	g, p, err := t.locate(0, &s, 0)
	if err != nil {
		return false, err
	}
	f, err := lookup(&p, key, moment)
	g.Unpin()
	t.finish(p.moved)
	if f.flags&entryOperand != 0 && f.ok && err == nil {
		_, err = t.getAt(moment, nil, key)
		if err == ErrNotFound {
			return false, nil
		}
		return err == nil, err
	}
	return f.ok, err
}

// lookup returns what a reader at the moment sees of key in the leaf: the deltas
// newest first, then the base. A delta that decides the answer is stamped first
// (T4).
func lookup(p *place, key []byte, moment uint64) (found, error) {
	if p.view.Deltas() > 0 {
		hint := hintOf(key)
		for d := p.view.Newest(); d.Valid(); d = d.Older() {
			if h := d.Hint(); h != 0 && h != hint {
				continue
			}
			c, has, err := findChange(d.Data(), key)
			if err != nil {
				return found{}, err
			}
			if !has {
				continue
			}
			if stamp, visible := d.Stamp(); visible && stamp <= moment {
				return found{c.value, c.flags, c.flags&entryTombstone == 0}, nil
			}
		}
	}
	e, ok := readBase(p.node, key, moment)
	if e.flags&^entryFlags != 0 {
		return found{}, fmt.Errorf("%w: entry with unknown flags %#x", ErrCorrupt, e.flags)
	}
	return found{e.value, e.flags, ok}, nil
}

// findChange returns what a delta of a leaf says of key: that it is erased is a
// tombstone.
func findChange(data, key []byte) (c change, has bool, err error) {
	d, err := asDelta(data)
	if err != nil {
		return c, false, err
	}
	if d.isErase() {
		e, err := decodeErase(d)
		return change{flags: entryTombstone}, err == nil && e.covers(key), err
	}
	c, has, ok := d.find(key)
	if !ok || d.isInner() || has && c.flags&^changeFlags != 0 {
		return c, false, fmt.Errorf("%w: delta of a leaf", ErrCorrupt)
	}
	return c, has, nil
}
