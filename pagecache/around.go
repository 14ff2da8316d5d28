package pagecache

import (
	"fmt"

	"github.com/pulkdb/db/log"
)

// Pages around the cache: those that are written and read once or seldom, and in
// bulk, such as the parts of a large value. They would throw out what is used. So
// they are evicted as soon as they can be, and what is read of them goes to the
// reader alone. To everybody else they are pages like any other: Load brings one
// into memory, the cleaner moves it.

// Shed evicts a page without deltas at once, whatever has read it. It reports false
// if that cannot be yet, since its record is not complete in the log (P9): a reader
// would wait for those who write beside it.
//
// REQUIRES: the caller holds no guard.
func (c *Cache) Shed(pid PID) bool {
	if c.options.InMemory {
		return true // there is nowhere else
	}
	shed := c.tryShed(pid)
	// Who sheds one page sheds many: their memory is to be reclaimed soon.
	c.epochs.TryAdvance()
	return shed
}

func (c *Cache) tryShed(pid PID) bool {
	g := c.Pin()
	defer g.Unpin()
	v, err := c.Peek(g, pid)
	switch {
	case err != nil || !v.Resident():
		return true
	case v.Owned() || v.Deltas() > 0 || v.bottom.positions != 1 || !c.completeInLog(v):
		return false
	}
	ref, b := c.newBottom(nodeAbsent, v.head.version, v.newestStamp(), 1, nil)
	b.flags = v.bottom.flags &^ nodeRead
	b.setPosition(0, v.bottom.position(0))
	yield(yieldEvictPublish)
	if !c.table.slot(pid).CompareAndSwap(v.word, uint64(ref)) {
		c.dropNode(ref)
		return false
	}
	c.retireChain(g, v.word)
	c.metrics.evictions.Add(1)
	return true
}

// AppendBase appends to dst the base of a page that has had no update since it was
// at the given version. A page that is not in memory is read and stays where it is.
// same is false if the page is free or at another version. Errors: a
// *log.CorruptError, ErrClosed, the file system's.
//
// REQUIRES: the caller holds no guard.
func (c *Cache) AppendBase(dst []byte, pid PID, version uint64) (out []byte, same bool, err error) {
	for {
		p, out, same, err := c.residentBase(dst, pid, version)
		if err != nil || !same || p.IsZero() {
			return out, same, err
		}
		yield(yieldLoadRead)
		out, err = c.appendFromLog(dst, p, pid, version)
		c.metrics.reads.Add(1)
		if err == nil {
			return out, true, nil
		}
		// The page may have been moved or freed, and its segment reused.
		now, _, same, viewErr := c.residentBase(dst, pid, version)
		if viewErr != nil || !same || now == p {
			if viewErr != nil {
				err = viewErr
			} else if !same {
				err = nil
			}
			return dst, false, err
		}
	}
}

// residentBase appends the base if it is in memory; else p is where it stands.
func (c *Cache) residentBase(dst []byte, pid PID, version uint64) (p log.Position, out []byte, same bool, err error) {
	g := c.Pin()
	defer g.Unpin()
	v, err := c.Peek(g, pid)
	switch {
	case err == ErrGone || err == nil && v.Version() != version:
		return p, dst, false, nil
	case err != nil:
		return p, dst, false, err
	case v.Deltas() > 0 || !v.Resident() && v.bottom.positions != 1:
		return p, dst, false, fmt.Errorf("%w: page %d has deltas", ErrCorrupt, pid)
	case v.Resident():
		return p, append(dst, v.Base()...), true, nil
	}
	return v.bottom.position(0), dst, true, nil
}

// appendFromLog appends the base that stands at p.
func (c *Cache) appendFromLog(dst []byte, p log.Position, pid PID, version uint64) ([]byte, error) {
	s := c.scratch.get()
	defer c.scratch.put(s)
	u, raw, err := c.log.Read(p, s.data[:0])
	if err != nil {
		return dst, err
	}
	s.data = raw
	if u.PID != pid || u.Version != version || u.Kind == log.KindAppend || u.Kind == log.KindFree {
		return dst, c.log.Corrupt(p, fmt.Errorf("page %d version %d %v stands where page %d version %d is expected", u.PID, u.Version, u.Kind, pid, version))
	}
	if !u.Compressed {
		return append(dst, u.Payload...), nil
	}
	out, err := c.codec.appendDecompressed(dst, u.Payload)
	if err != nil {
		return dst, c.log.Corrupt(p, err)
	}
	return out, nil
}
