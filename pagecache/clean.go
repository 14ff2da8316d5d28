package pagecache

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/log"
)

// The cleaner gives space back: it moves what is live in a segment elsewhere, so
// that the segment can be reused once two page-table snapshots no longer need it
// (P7).
//
// Which segment: the one with the best ratio of what is gained and for how long
// to what it costs, (1-u) x age / (1+u), u being its live share and age the log
// written since it was closed (cost-benefit cleaning: Rosenblum and Ousterhout,
// "The Design and Implementation of a Log-Structured File System", SOSP 1991).
//
// A page is moved as a whole, by the consolidation protocol: its merged form is
// written and published by compare-and-swap, with the version that it contains.
// What only sits there goes to the Survivors stream, apart from fresh writes,
// which die sooner. That is allowed only for pages whose updates are all durable
// in the Fresh stream: else a crash could keep the moved page, and with it an
// update of which the record is lost. Other pages are rewritten in the Fresh
// stream, where order protects them.
type cleaner struct {
	// Atomic.
	pressure atomic.Int64  // how long a writer is held up per operation, ns
	due      atomic.Uint64 // LSN: when the log gets there, space is looked at again
	moved    atomic.Uint64
	cleaned  atomic.Uint64
	reads    atomic.Uint64 // of fragments of pages that were not in memory

	wake chan struct{}

	mu sync.Mutex // held while a segment is cleaned

	// Guarded by mu.
	pids    []PID
	refused map[LSN]bool // segments that could not be read
}

const (
	cleanPoll = 20 * time.Millisecond
	// Space in percent of live data, segments that only wait for a snapshot left
	// out: the cleaner works above the first, and writers are slowed above the
	// second (all space counted).
	cleanStartPercent = 135
	cleanSlowPercent  = 170
	cleanSlowMax      = 2 * time.Millisecond
	// Segments beyond that do not count as too many, whatever the share.
	cleanFreeSegments = 4
)

// noteWriting wakes the cleaner when a segment was written since it last looked.
func (c *Cache) noteWriting() {
	if uint64(c.log.Tail(log.Fresh)) < c.clean.due.Load() {
		return
	}
	select {
	case c.clean.wake <- struct{}{}:
	default:
	}
}

// space is the log's use of the disk.
type space struct {
	total   int64 // bytes of all segments
	live    int64 // of those, live
	waiting int64 // in segments without live data, that wait for a snapshot
}

func (c *Cache) space(segments []log.SegmentInfo) space {
	var s space
	for _, g := range segments {
		size := c.sizeOf(g)
		s.total += size
		s.live += max(g.Live, 0)
		if g.End != 0 && g.Live == 0 {
			s.waiting += size
		}
	}
	return s
}

// sizeOf is the bytes a segment takes.
func (c *Cache) sizeOf(s log.SegmentInfo) int64 {
	if s.End == 0 {
		return 0 // open: its end is the tail's business
	}
	return int64(s.End - s.Base)
}

// runCleaner is the cleaner's goroutine.
func (c *Cache) runCleaner() {
	defer c.background.Done()
	tick := time.NewTicker(cleanPoll)
	defer tick.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-tick.C:
		case <-c.clean.wake:
		}
		for c.log.Err() == nil && c.cleanOnce() {
			select {
			case <-c.stop:
				return
			default:
			}
		}
	}
}

// cleanOnce cleans one segment or has a snapshot written, if space asks for it.
// It reports whether it did. Writers are held up only while that brings
// something.
func (c *Cache) cleanOnce() bool {
	c.clean.mu.Lock()
	defer c.clean.mu.Unlock()
	c.clean.due.Store(uint64(c.log.Tail(log.Fresh)) + uint64(c.log.SegmentBytes()))
	segments := c.log.Segments()
	s := c.space(segments)
	slack := cleanFreeSegments * int64(c.log.SegmentBytes())
	pressure := c.slowdown(s)
	c.clean.pressure.Store(int64(pressure))
	victim, ok := c.chooseVictim(segments)
	done := false
	switch {
	case s.waiting > slack/2+s.live/10:
		done = c.snapshotForSpace()
	case ok && s.total-s.waiting > s.live*cleanStartPercent/100+slack:
		done = c.cleanVictim(victim)
	case pressure > 0 && s.waiting > 0:
		done = c.snapshotForSpace()
	case pressure > 0 && ok:
		done = c.cleanVictim(victim)
	}
	if !done {
		c.clean.pressure.Store(0)
	}
	return done
}

// snapshotForSpace writes page-table snapshots so that segments can go. It
// reports whether some went.
func (c *Cache) snapshotForSpace() bool {
	recycled, err := c.checkpointForSpace()
	if err != nil && !errors.Is(err, errStopped) {
		c.options.Logger.Error("pagecache: page-table snapshot for the cleaner failed", "error", err)
	}
	return err == nil && recycled > 0
}

func (c *Cache) cleanVictim(victim LSN) bool {
	err := c.cleanSegment(victim)
	switch {
	case err == nil:
		c.clean.cleaned.Add(1)
		paths.Hit(paths.Cleaned)
		return true
	case errors.Is(err, log.ErrGone), errors.Is(err, log.ErrState), errors.Is(err, ErrClosed), errors.Is(err, errStopped):
		return false
	}
	c.clean.refused[victim] = true
	c.options.Logger.Error("pagecache: cleaning a segment failed", "segment", victim.String(), "error", err)
	return false
}

// slowdown is how long each write waits while space is above its goal: it grows
// smoothly, from nothing at cleanSlowPercent.
func (c *Cache) slowdown(s space) time.Duration {
	limit := s.live*cleanSlowPercent/100 + cleanFreeSegments*int64(c.log.SegmentBytes())
	over := s.total - limit
	if over <= 0 || s.live == 0 {
		return 0
	}
	return min(cleanSlowMax, cleanSlowMax*time.Duration(over*10/s.live+1)/10)
}

// chooseVictim finds the closed segment that is best cleaned now.
func (c *Cache) chooseVictim(segments []log.SegmentInfo) (LSN, bool) {
	best, victim := 0.0, LSN(0)
	tail := c.log.Tail(log.Fresh)
	for _, s := range segments {
		if s.End == 0 || s.Live <= 0 || s.End > tail || c.clean.refused[s.Base] {
			continue
		}
		u := float64(s.Live) / float64(c.sizeOf(s))
		if u > 0.98 {
			continue
		}
		age := float64(tail-s.Base) + 1
		if score := (1 - u) * age / (1 + u); score > best {
			best, victim = score, s.Base
		}
	}
	return victim, best > 0
}

// cleanSegment moves everything live out of a segment.
func (c *Cache) cleanSegment(base LSN) error {
	pids := c.clean.pids[:0]
	err := c.log.ScanSegment(base, func(u log.Update, at log.Position) error {
		if c.refersTo(u.PID, at) {
			pids = append(pids, u.PID)
		}
		return nil
	})
	slices.Sort(pids)
	pids = slices.Compact(pids)
	c.clean.pids = pids
	if err != nil {
		return err
	}
	for _, pid := range pids {
		select {
		case <-c.stop:
			return errStopped
		default:
		}
		if err := c.log.Throttle(); err != nil {
			return err
		}
		if err := c.movePage(pid, base); err != nil {
			return err
		}
		c.clean.moved.Add(1)
	}
	return nil
}

// refersTo reports whether the table refers to the update at p.
func (c *Cache) refersTo(pid PID, p log.Position) bool {
	return c.anyPosition(pid, func(q log.Position) bool { return p == q })
}

// anyPosition reports whether one of the page's positions is as asked.
func (c *Cache) anyPosition(pid PID, is func(log.Position) bool) bool {
	g := c.Pin()
	defer g.Unpin()
	slot := c.table.slot(pid)
	if slot == nil {
		return false
	}
	word := slot.Load()
	if word&slotRefMask == 0 {
		return false
	}
	h := c.headerAt(word)
	if h.kind == nodeFree {
		return is(c.freeAt(word).position())
	}
	if h.kind == nodeDelta {
		for d := c.deltaAt(word); d != nil; d = c.olderDelta(d) {
			if is(d.position()) {
				return true
			}
		}
	}
	b := c.bottomOf(word)
	for i := range int(b.positions) {
		if is(b.position(i)) {
			return true
		}
	}
	return false
}

const moveTriesMax = 1000

// movePage rewrites the page unless nothing of it is in the segment any more.
func (c *Cache) movePage(pid PID, segment LSN) error {
	inSegment := func(p log.Position) bool { return !p.IsZero() && c.log.SegmentOf(p.LSN) == segment }
	for range moveTriesMax {
		if !c.anyPosition(pid, inSegment) {
			return nil
		}
		done, err := c.tryMove(pid)
		if err != nil {
			return ignoreGone(err)
		}
		if !done {
			paths.Hit(paths.CleanerLost)
			spin()
		}
	}
	return nil // somebody keeps the page busy; the segment comes up again
}

func (c *Cache) tryMove(pid PID) (bool, error) {
	if done, was, err := c.tryMoveFree(pid); was || err != nil {
		return done, err
	}
	if done, resident, err := c.tryMoveResident(pid); resident || err != nil {
		return done, err
	}
	return c.tryMoveEvicted(pid)
}

// tryMoveFree writes the record that freed a PID anew.
func (c *Cache) tryMoveFree(pid PID) (done, was bool, err error) {
	g := c.Pin()
	defer g.Unpin()
	slot := c.table.slot(pid)
	word := slot.Load()
	if word&slotRefMask == 0 || c.headerAt(word).kind != nodeFree {
		return false, false, nil
	}
	if word&slotWriter != 0 || c.freeAt(word).position().IsZero() {
		return false, true, nil
	}
	f := c.freeAt(word)
	r, err := c.log.Reserve(log.Fresh, log.UpdateSize(pid, f.version, 0))
	if err != nil {
		return false, true, err
	}
	p := r.Append(log.Update{PID: pid, Version: f.version, Kind: log.KindFree})
	ref := c.newFree(f.version, p)
	if !slot.CompareAndSwap(word, uint64(ref)) {
		r.Abort()
		c.dropNode(ref)
		return false, true, nil
	}
	c.noteLogged(pid, p)
	c.log.Account(f.position(), false)
	r.Complete(c.clock.Load())
	c.retireNode(g, word)
	return true, true, nil
}

func (c *Cache) tryMoveResident(pid PID) (done, resident bool, err error) {
	g := c.Pin()
	defer g.Unpin()
	v, err := c.Peek(g, pid)
	if err != nil || !v.Resident() {
		return false, false, err
	}
	done, err = c.rewrite(g, v, c.streamFor(v))
	return done, true, err
}

// tryMoveEvicted reads a page that is not in memory and writes it merged,
// without bringing it into memory.
func (c *Cache) tryMoveEvicted(pid PID) (bool, error) {
	absent, resident, err := c.missing(pid)
	if err != nil || resident {
		return false, err
	}
	read, err := c.readFragments(pid, absent)
	c.clean.reads.Add(uint64(len(absent.positions)))
	if err != nil {
		if c.stillMissing(pid, absent) {
			return false, err
		}
		return false, nil
	}
	s := c.scratch.get()
	defer c.scratch.put(s)
	g := c.Pin()
	defer g.Unpin()
	v, err := c.Peek(g, pid)
	if err != nil || v.Resident() || v.Owned() || !c.isAbsence(s, v, absent) {
		return false, err
	}
	data, err := c.foldLoaded(s, v, read)
	if err != nil {
		return false, err
	}
	ref, b := c.newBottom(nodeAbsent, v.head.version, v.newestStamp(), 1, nil)
	b.flags = v.bottom.flags & nodeKeep
	f := folded{ref: ref, base: b, toLog: true, stream: c.streamFor(v)}
	if f.update, err = c.baseUpdate(log.KindConsolidate, pid, b.version, data); err != nil {
		c.dropNode(ref)
		return false, err
	}
	f.recovery = c.recoveryOf(pid, data)
	done, err := c.publishFolded(g, v, f)
	c.codec.release(&f.update)
	if !done {
		c.dropNode(ref)
	}
	return done, err
}

// isAbsence reports whether v's absent node says what a says.
func (c *Cache) isAbsence(s *scratch, v View, a absence) bool {
	s.positions = v.bottom.appendPositions(s.positions[:0])
	return v.bottom.version == a.version && slices.Equal(s.positions, a.positions)
}

// streamFor is where a rewritten page goes: to the survivors if all its updates
// are durable in the Fresh stream.
func (c *Cache) streamFor(v View) log.Stream {
	durable := c.log.Durable(log.Fresh)
	settled := func(p log.Position) bool {
		return c.log.StreamOf(p.LSN) == log.Survivors || c.groups.settled(p, durable)
	}
	if d := v.top(); d != nil && !settled(d.position()) {
		return log.Fresh
	}
	n := int(v.bottom.positions)
	if n == 0 || !settled(v.bottom.position(0)) || !settled(v.bottom.position(n-1)) {
		return log.Fresh
	}
	return log.Survivors
}
