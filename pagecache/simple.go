package pagecache

import (
	"slices"

	"github.com/pulkdb/db/internal/epoch"
)

// The methods in this file are the page cache in its plainest form: pages that
// are read whole and changed one at a time. They wait for room, load what is
// missing, and leave durability to WaitDurable or Sync.

// Allocate makes a page with the given base.
func (c *Cache) Allocate(base []byte) (PID, Key, error) {
	if err := c.Throttle(); err != nil {
		return 0, Key{}, err
	}
	u := c.Begin()
	pid, err := u.Allocate(base)
	if err != nil {
		u.Discard()
		return 0, Key{}, err
	}
	key := Key{u.FreshVersion(pid)}
	if _, err := u.Commit(); err != nil {
		return 0, Key{}, err
	}
	return pid, key, nil
}

// Get returns the page, merged, and the Key to change it with. The slice is the
// caller's. Errors: ErrGone, ErrClosed, a *log.CorruptError, the materializer's.
func (c *Cache) Get(pid PID) ([]byte, Key, error) {
	for {
		data, key, resident, err := c.tryGet(pid)
		if err != nil || resident {
			return data, key, err
		}
		if err := c.Load(pid); err != nil {
			return nil, Key{}, err
		}
	}
}

func (c *Cache) tryGet(pid PID) (data []byte, key Key, resident bool, err error) {
	g := c.Pin()
	defer g.Unpin()
	v, err := c.View(g, pid)
	if err != nil || !v.Resident() {
		return nil, Key{}, false, err
	}
	if v.Deltas() == 0 {
		return slices.Clone(v.Base()), v.Key(), true, nil
	}
	s := c.scratch.get()
	defer c.scratch.put(s)
	key = v.visible(&s.merging)
	data, err = c.merge(nil, &s.merging)
	return data, key, true, err
}

// visible fills m with the fragments of a resident view that can be seen, and
// returns the Key of what they amount to. Deltas that are being installed are the
// newest; an update made with the Key fails once they are there.
func (v View) visible(m *Merging) Key {
	m.reset(v.pid)
	key := v.Key()
	for d := v.Newest(); d.Valid(); d = d.Older() {
		if stamp, visible := d.Stamp(); visible {
			m.Fragments = append(m.Fragments, Fragment{Data: d.Data(), Stamp: stamp})
		} else {
			key.version = d.node.version - 1
			m.Fragments = m.Fragments[:0]
		}
	}
	m.Fragments = append(m.Fragments, Fragment{Data: v.bottom.payload()})
	slices.Reverse(m.Fragments)
	m.Base = true
	v.c.moments.collect(m, &v.c.clock)
	return key
}

// Set replaces the page's contents, if it still is as key saw it. It returns the
// new Key. Errors: ErrGone, *ChangedError (with the Key the page has now),
// ErrTooLarge, ErrClosed, the log's failure.
func (c *Cache) Set(pid PID, key Key, base []byte) (Key, error) {
	return c.change(pid, key, func(_ epoch.Guard, v View) (Result, error) {
		u := c.Begin()
		u.Replace(v, base)
		return u.Commit()
	})
}

// Merge adds a delta to the page, if it still is as key saw it. It returns the
// new Key. Errors: as Set.
func (c *Cache) Merge(pid PID, key Key, delta []byte) (Key, error) {
	crowded := false
	next, err := c.change(pid, key, func(g epoch.Guard, v View) (Result, error) {
		r, err := c.Append(g, v, delta, 0)
		switch {
		case err != nil || r.Outcome != Done:
		case !v.Resident():
			crowded = r.Reads > c.PlacesMax()
		case r.Deltas >= c.options.MergeDeltas:
			// The delta is added. That the page could not be folded is for
			// those to hear who read it.
			_ = c.Maintain(g, pid)
		}
		return r, err
	})
	if crowded && err == nil {
		c.gatherPage(pid)
	}
	return next, err
}

// Free frees the page, if it still is as key saw it. Its PID is reused later,
// with a higher version. Errors: as Set.
func (c *Cache) Free(pid PID, key Key) error {
	_, err := c.change(pid, key, func(_ epoch.Guard, v View) (Result, error) {
		u := c.Begin()
		u.Free(v)
		return u.Commit()
	})
	return ignoreGone(err)
}

// change makes a change that key allows. A Key stays good when the page was
// only folded, evicted or loaded: those leave its version as it is.
func (c *Cache) change(pid PID, key Key, do func(epoch.Guard, View) (Result, error)) (Key, error) {
	if err := c.Throttle(); err != nil {
		return Key{}, err
	}
	g := c.Pin()
	defer g.Unpin()
	for {
		v, err := c.View(g, pid)
		if err != nil {
			return Key{}, err
		}
		if v.Version() != key.version {
			return Key{}, &ChangedError{PID: pid, Key: v.Key()}
		}
		r, err := do(g, v)
		if err != nil {
			return Key{}, err
		}
		switch r.Outcome {
		case Done:
			return Key{key.version + 1}, nil
		case Gone:
			return Key{}, ErrGone
		}
	}
}

func (c *Cache) keyOf(pid PID) (Key, error) {
	g := c.Pin()
	defer g.Unpin()
	v, err := c.View(g, pid)
	if err != nil {
		return Key{}, err
	}
	return v.Key(), nil
}
