package pagecache

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/internal/testhooks"
	"github.com/pulkdb/db/log"
)

// The cleaner gives space back: it moves what is live in a segment elsewhere, so
// that the segment can be reused once two page-table snapshots no longer need it
// (P7).
//
// Which segment: see survey.go. When, and how writers are slowed: see space.go.
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
	due     atomic.Uint64 // LSN: when the log gets there, space is looked at again
	moved   atomic.Uint64
	cleaned atomic.Uint64
	reads   atomic.Uint64 // of fragments of pages that were not in memory
	bytes   atomic.Uint64 // of segments cleaned
	written atomic.Uint64 // bytes of pages, for that

	wake chan struct{}

	mu sync.Mutex // held while a segment is cleaned

	// Guarded by mu.
	pids     []PID
	refused  map[LSN]refusal // segments that could not be emptied
	victims  []victim        // of the last survey, the best one last
	surveyed LSN             // the log's end at that
	barren   surveyMark      // of the last survey, if it found nothing
	reserve  int64           // bytes that emptying the best segment of the last survey takes
	freeing  chan bool       // a page-table snapshot for the cleaner is under way: see snapshotEnded
}

// A refusal says when a segment that could not be emptied is tried again: after longer and
// longer, or never if it is corrupt.
type refusal struct {
	until   time.Time
	pause   time.Duration
	corrupt bool
}

// A surveyMark says when a survey was made: the sum of the ends of the log's streams, and
// the time.
type surveyMark struct {
	logged LSN
	at     time.Time
}

const (
	cleanPoll = 5 * time.Millisecond
	// movers is how many goroutines move pages: most of the time they read.
	movers = 4
	// The cleaner works while space exceeds the goal less slack/cleanStartShare, and less
	// what it must write before anything comes back, which is at most slack/reserveShare. It
	// has a page-table snapshot written when slack/snapshotShare waits for one.
	cleanStartShare = 6
	reserveShare    = 3
	snapshotShare   = 12
	// While one is written it goes on cleaning, until slack/aheadShare waits for the next:
	// else it could fill the disk with segments that it has just emptied.
	aheadShare = 4
	// In a store so small that its goal follows from spaceSegmentsMin it begins at so
	// many segments beyond SpaceTarget: what is moved is merged, and so made small.
	cleanSegmentsMin = 5
	// cleanRetry is after how long a segment is tried again that could not be emptied, at
	// first, and segments are surveyed again of which none was worth it.
	cleanRetry    = 10 * time.Second
	cleanRetryMax = time.Hour
)

// noteWriting wakes the cleaner when a quarter of a segment was written since space
// was last looked at, and looks at it: the cleaner may not get to run.
func (c *Cache) noteWriting() {
	tail, due := uint64(c.log.Tail(log.Fresh)), c.clean.due.Load()
	if tail < due || !c.clean.due.CompareAndSwap(due, tail+uint64(c.log.SegmentBytes())/4) {
		return
	}
	c.setPace(c.measureSpace(c.log.Segments()))
	select {
	case c.clean.wake <- struct{}{}:
	default:
	}
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
	lock(&c.clean.mu)
	defer c.clean.mu.Unlock()
	c.clean.due.Store(uint64(c.log.Tail(log.Fresh)) + uint64(c.log.SegmentBytes())/4)
	segments := c.log.Segments()
	c.sampleGrowth(segments)
	s := c.measureSpace(segments)
	c.setPace(s)
	// Files that wait to be reused are none that cleaning could empty.
	used := s.total - s.idle
	start := s.goal - s.slack/cleanStartShare
	if most := s.slack / reserveShare; used > start-most {
		c.surveyIfDue(segments)
		start -= min(c.clean.reserve, most)
	}
	start = min(start, s.live*int64(c.options.SpaceTarget)/100+cleanSegmentsMin*int64(c.log.SegmentBytes()))
	done := c.snapshotEnded(s.waiting > s.slack/aheadShare)
	enough := s.waiting > s.slack/snapshotShare
	if used > start && enough {
		c.startSnapshotForSpace()
	}
	if used-s.waiting > start && c.cleanNext(segments) {
		done = true
	}
	if !done && used > start && enough {
		c.startSnapshotForSpace()
		done = c.snapshotEnded(true)
	}
	// With less waiting than is worth a page-table snapshot it is not: there is no pace then.
	stuck := !done && used > start && (enough || used-s.waiting > start)
	c.space.stuck.Store(stuck)
	if stuck {
		c.space.pace.Store(0)
	}
	return done
}

// startSnapshotForSpace has page-table snapshots written so that segments can go,
// beside the cleaner: they wait for the disk most of the time.
func (c *Cache) startSnapshotForSpace() {
	if c.clean.freeing != nil {
		return
	}
	ended := make(chan bool, 1)
	c.clean.freeing = ended
	c.background.Go(func() {
		recycled, err := c.checkpointForSpace()
		if err != nil && !errors.Is(err, errStopped) {
			c.options.Logger.Error("pagecache: page-table snapshot for the cleaner failed", "error", err)
		}
		ended <- err == nil && recycled > 0
	})
}

// snapshotEnded reports whether what startSnapshotForSpace began has come to its end and
// segments went. It waits for that if wait is set.
func (c *Cache) snapshotEnded(wait bool) (went bool) {
	if c.clean.freeing == nil {
		return false
	}
	if !wait {
		select {
		case went = <-c.clean.freeing:
			c.clean.freeing = nil
		default:
		}
		return went
	}
	went = <-c.clean.freeing
	c.clean.freeing = nil
	return went
}

// cleanNext cleans the best segment. It reports false if there is none, of those of
// the last survey and of a new one, which is made if it may find more.
func (c *Cache) cleanNext(segments []log.SegmentInfo) bool {
	k := &c.clean
	for surveyed := false; ; surveyed = true {
		for len(k.victims) > 0 {
			v := k.victims[len(k.victims)-1]
			k.victims = k.victims[:len(k.victims)-1]
			i, ok := slices.BinarySearchFunc(segments, v.base, func(s log.SegmentInfo, base LSN) int { return cmp.Compare(s.Base, base) })
			if ok && segments[i].Live > 0 {
				return c.cleanVictim(v)
			}
		}
		if surveyed || !c.maySurvey() {
			return false
		}
		c.survey(segments)
	}
}

// maySurvey reports whether the last survey found something, or so much was written
// since, or so long has passed, that the next one may: it takes its time, and a store
// that stays above its goal would be surveyed for ever.
func (c *Cache) maySurvey() bool {
	b := &c.clean.barren
	return b.at.IsZero() || c.logged() >= b.logged+LSN(c.log.SegmentBytes()) || time.Since(b.at) >= cleanRetry
}

// logged grows with whatever is written to the log.
func (c *Cache) logged() LSN { return c.log.Tail(log.Fresh) + c.log.Tail(log.Survivors) }

// surveyIfDue surveys the segments if so much was written since the last time that
// they have changed, and reports whether it did.
func (c *Cache) surveyIfDue(segments []log.SegmentInfo) bool {
	k := &c.clean
	if c.log.Tail(log.Fresh) <= k.surveyed+LSN(len(segments)*c.log.SegmentBytes()/surveyShare) {
		return false
	}
	c.survey(segments)
	return true
}

func (c *Cache) cleanVictim(v victim) bool {
	c.space.stuck.Store(false) // from now on, and it may take a while
	err := c.cleanSegment(v.base)
	switch {
	case err == nil:
		delete(c.clean.refused, v.base)
		c.clean.cleaned.Add(1)
		c.clean.bytes.Add(uint64(v.size))
		paths.Hit(paths.Cleaned)
		return true
	case errors.Is(err, log.ErrGone), errors.Is(err, log.ErrState):
		return len(c.clean.victims) > 0
	case errors.Is(err, ErrClosed), errors.Is(err, errStopped):
		return false
	}
	pause := min(max(2*c.clean.refused[v.base].pause, cleanRetry), cleanRetryMax)
	c.clean.refused[v.base] = refusal{time.Now().Add(pause), pause, errors.Is(err, ErrCorrupt)}
	c.options.Logger.Error("pagecache: cleaning a segment failed", "segment", v.base.String(), "error", err)
	return false
}

// cleanSegment moves everything live out of a segment.
func (c *Cache) cleanSegment(base LSN) error {
	pids := c.clean.pids[:0]
	// Whether a page has anything here is asked once for each, when it is moved.
	err := c.log.ScanSegment(base, func(u log.Update, _ log.Position) error {
		if n := len(pids); n == 0 || pids[n-1] != u.PID {
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
	return c.moveAll(base, pids)
}

// moveAll moves the pages, several at a time: who moves one that is not in memory
// reads most of the time.
func (c *Cache) moveAll(base LSN, pids []PID) error {
	var next atomic.Int64
	errs := make([]error, movers)
	move := func(mover int) {
		for errs[mover] == nil {
			i := next.Add(1) - 1
			if i >= int64(len(pids)) {
				return
			}
			if errs[mover] = c.moveOne(pids[i], base); errs[mover] != nil {
				next.Store(int64(len(pids)))
			}
		}
	}
	var wg sync.WaitGroup
	for mover := 1; mover < movers; mover++ {
		wg.Go(func() { move(mover) })
	}
	move(0)
	wg.Wait()
	return errors.Join(errs...)
}

// cleanPaceEvery is after how many pages moved the pace is set anew.
const cleanPaceEvery = 32

func (c *Cache) moveOne(pid PID, segment LSN) error {
	if c.stopping() {
		return errStopped
	}
	if err := c.log.Throttle(); err != nil {
		return err
	}
	return c.movePage(pid, segment)
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
		} else if c.clean.moved.Add(1)%cleanPaceEvery == 0 {
			c.setPace(c.measureSpace(c.log.Segments()))
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
	return c.tryMoveEvicted(pid, &c.clean.reads, &c.clean.written)
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
	if done {
		c.clean.written.Add(uint64(len(v.Base())))
	}
	return done, true, err
}

// tryMoveEvicted reads a page that is not in memory and writes it merged,
// without bringing it into memory. It adds to reads, and to written if it did: the
// bytes of the page in its record.
func (c *Cache) tryMoveEvicted(pid PID, reads, written *atomic.Uint64) (bool, error) {
	absent, resident, err := c.missing(pid)
	if err != nil || resident {
		return false, err
	}
	defer c.countBuffers(absent)()
	read, n, err := c.readFragments(pid, absent)
	reads.Add(uint64(n))
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
	if err != nil || v.Resident() || v.Owned() || !c.isAbsence(s, v, absent) && !testhooks.GatherStale.On() {
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
	if done {
		written.Add(uint64(len(f.update.Payload)))
	}
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
