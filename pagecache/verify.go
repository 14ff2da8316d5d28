package pagecache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/pulkdb/db/log"
	"github.com/pulkdb/db/snapshot"
)

// Verify reads everything that the cache has on disk and returns the first thing
// that is wrong: records of closed segments, the newest page-table snapshot, and of
// each page all fragments, which must be its own and of the right versions. Updates go
// on meanwhile, and page-table snapshots wait while one is read. step is called with how
// many bytes were dealt with since the last call. Errors: a *log.CorruptError, one
// that wraps ErrCorrupt, ErrClosed, ctx's, the file system's.
func (c *Cache) Verify(ctx context.Context, step func(bytes int64)) error {
	if c.closed.Load() {
		return ErrClosed
	}
	if c.options.InMemory {
		return nil
	}
	if err := c.verifySegments(ctx, step); err != nil {
		return err
	}
	if err := c.verifySnapshot(); err != nil {
		return err
	}
	return c.verifyPages(ctx, step)
}

// VerifyBytes is how many bytes Verify will deal with, about.
func (c *Cache) VerifyBytes() int64 {
	if c.options.InMemory || c.closed.Load() {
		return 0
	}
	n := int64(0)
	for _, s := range c.log.Segments() {
		n += c.sizeOf(s) + max(s.Live, 0)
	}
	return n
}

func (c *Cache) verifySegments(ctx context.Context, step func(int64)) error {
	for _, s := range c.log.Segments() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if s.End == 0 {
			continue // what pages have in it is read with them
		}
		err := c.log.ScanSegment(s.Base, func(log.Update, log.Position) error { return ctx.Err() })
		if err != nil && !errors.Is(err, log.ErrGone) && !errors.Is(err, log.ErrState) {
			return err
		}
		step(c.sizeOf(s))
	}
	return nil
}

// verifySnapshot reads the newest page-table snapshot.
func (c *Cache) verifySnapshot() error {
	if c.options.ReadOnly {
		return nil // Open has read it, and passed over those that it could not use
	}
	lock(&c.checkpoint.mu)
	defer c.checkpoint.mu.Unlock()
	var first error
	passed := func(err error) {
		if first == nil {
			first = err
		}
	}
	_, _, err := snapshot.Load(c.options.FS, c.options.Dir, c.log.StoreID(), nil, snapshot.Sink{Passed: passed})
	err = errors.Join(first, err)
	var corrupt *log.CorruptError
	if errors.Is(err, fs.ErrNotExist) && !errors.As(err, &corrupt) {
		// One file builds on another, which is not there.
		return &log.CorruptError{File: c.options.Dir, Err: err}
	}
	return err
}

const verifyCtxPages = 64 // verified between two looks at the context

func (c *Cache) verifyPages(ctx context.Context, step func(int64)) error {
	var s, again snapshot.Slot
	for pid := PID(1); pid <= c.pids.max(); pid++ {
		if pid%verifyCtxPages == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		if err := c.verifyPage(pid, &s, &again); err != nil {
			return err
		}
		for _, p := range s.Positions {
			step(int64(p.Size))
		}
	}
	return nil
}

// verifyPage reads a page's fragments. They may be moved or replaced meanwhile, and
// their segment reused: what is wrong then counts for nothing.
func (c *Cache) verifyPage(pid PID, s, again *snapshot.Slot) error {
	for {
		s.Positions = s.Positions[:0]
		used, err := c.describeOpen(pid, s)
		if err != nil || !used {
			return err
		}
		if err = c.verifySlot(s); err == nil {
			return nil
		}
		used, gone := c.describeOpen(pid, again)
		if gone != nil {
			return gone
		}
		if used && again.Version == s.Version && slices.Equal(again.Positions, s.Positions) {
			if errors.Is(err, log.ErrGone) {
				return fmt.Errorf("%w: page %d refers to a segment that is gone", ErrCorrupt, pid)
			}
			return err
		}
	}
}

// describeOpen is describeSlot for those whom Close does not wait for: the guard that
// is pinned before they look whether the cache is closed keeps page memory there.
func (c *Cache) describeOpen(pid PID, s *snapshot.Slot) (used bool, err error) {
	g := c.Pin()
	defer g.Unpin()
	if c.closed.Load() {
		return false, ErrClosed
	}
	return c.describeSlot(pid, s), nil
}

func (c *Cache) verifySlot(s *snapshot.Slot) error {
	if s.State == snapshot.Used {
		_, _, err := c.readFragments(s.PID, absence{version: s.Version, positions: s.Positions})
		return err
	}
	for _, p := range s.Positions {
		u, _, err := c.log.Read(p, nil)
		if err != nil {
			return err
		}
		if u.PID != s.PID || u.Kind != log.KindFree {
			return c.log.Corrupt(p, fmt.Errorf("page %d version %d %v stands where page %d was freed", u.PID, u.Version, u.Kind, s.PID))
		}
	}
	return nil
}

// InUse reports whether a PID is in use, and the page version.
func (c *Cache) InUse(pid PID) (version uint64, ok bool) {
	g := c.Pin()
	defer g.Unpin()
	v, err := c.Peek(g, pid)
	if err != nil {
		return 0, false
	}
	return v.Version(), true
}

// MaxPID is the highest PID that was ever handed out.
func (c *Cache) MaxPID() PID { return c.pids.max() }
