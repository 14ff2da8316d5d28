package tree

import "fmt"

// newestMoment sees every version.
const newestMoment = ^uint64(0)

// A found is the version of a key that a reader sees, borrowed.
type found struct {
	value []byte // as stored: the value, or its chunk list
	flags byte
	ok    bool // the key is present
}

// GetTo appends the value of key to dst. It returns dst unchanged with an error:
// ErrNotFound, ErrClosed, or what loading a page failed with. It takes no lock
// and allocates nothing if dst has room.
//
// The linearization point is the View of the leaf.
func (t *Tree) GetTo(dst, key []byte) ([]byte, error) {
	if err := t.readable(); err != nil {
		return dst, err
	}
	s := seek{key: key}
	for {
		g, p, err := t.locate(0, &s, 0)
		if err != nil {
			return dst, err
		}
		f, err := lookup(&p, key, newestMoment)
		if err != nil || !f.ok {
			g.Unpin()
			t.finish(p.moved)
			return dst, notFound(err)
		}
		if f.flags&entryIndirect == 0 {
			if dst = append(dst, f.value...); dst == nil {
				dst = []byte{} // an empty value is a value
			}
			g.Unpin()
			if p.moved != 0 {
				t.finish(p.moved)
			}
			return dst, nil
		}
		list := append([]byte(nil), f.value...)
		g.Unpin()
		out, current, err := t.appendChunked(dst, list)
		if err != nil {
			return dst, err
		}
		if current {
			return out, nil
		}
	}
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
func (t *Tree) Has(key []byte) (bool, error) {
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
	f, err := lookup(&p, key, newestMoment)
	g.Unpin()
	t.finish(p.moved)
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

func findChange(data, key []byte) (c change, has bool, err error) {
	d, err := asDelta(data)
	if err != nil {
		return c, false, err
	}
	c, has, ok := d.find(key)
	if !ok || d.isInner() || has && c.flags&^changeFlags != 0 {
		return c, false, fmt.Errorf("%w: delta of a leaf", ErrCorrupt)
	}
	return c, has, nil
}
