package tree

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"
)

// A shrinker gives back, in the background, the space of what nobody can see any
// more: of what range deletions cover, and of versions that only a closed moment
// kept. Both are lists of leaves to look at, and neither is needed for anything
// to be right: what is left out, or forgotten in a restart, goes when the leaf is
// next consolidated.
type shrinker struct {
	t *Tree

	// Immutable after Open.
	wake chan struct{}
	stop chan struct{}
	done sync.WaitGroup

	// Atomic.
	woken   atomic.Bool
	pending atomic.Int64 // len(erased)
	shrunk  atomic.Uint64

	mu     sync.Mutex // taken by who queues a range and by the goroutine, never while anything is read or written
	erased []erasedRange

	kept *keptLeaves

	// Owned by the goroutine.
	oldest uint64 // moment at the last walk over kept
	again  int    // walks since then for late notes
}

// An erasedRange is a range that was deleted before the clock stood at clock.
type erasedRange struct {
	Range
	clock uint64
}

const (
	// erasedRangesMax bounds the queue: beyond, ranges are joined with what lies
	// between them.
	erasedRangesMax = 256
	// shrinkPauseMin and shrinkPauseShare say how long the goroutine rests after a
	// walk: a time, and a multiple of what the walk took.
	shrinkPauseMin   = 10 * time.Millisecond
	shrinkPauseShare = 2
	// shrinkAgainMax is how often the goroutine walks for late notes while the oldest
	// moment stays the same.
	shrinkAgainMax = 16
)

func (s *shrinker) start(t *Tree, kept *keptLeaves) {
	s.t, s.kept = t, kept
	s.wake, s.stop = make(chan struct{}, 1), make(chan struct{})
	if t.options.Cache.ReadOnly {
		return
	}
	s.done.Add(1)
	go s.run()
}

// close joins the goroutine.
func (s *shrinker) close() {
	close(s.stop)
	s.done.Wait()
}

func (s *shrinker) notify() {
	if !s.woken.Load() && s.woken.CompareAndSwap(false, true) {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// momentClosed is two loads unless there is something that the moment may have
// kept.
func (s *shrinker) momentClosed() {
	if s.kept.leaves.Load() > 0 || s.pending.Load() > 0 {
		s.notify()
	}
}

// queue has the leaves of the ranges looked at, once no moment needs what was in
// them.
func (s *shrinker) queue(ranges []Range) {
	clock := s.t.cache.Clock()
	s.mu.Lock()
	for _, r := range ranges {
		r = Range{bytes.Clone(r.Lo), bytes.Clone(r.Hi)}
		if n := len(s.erased); n >= erasedRangesMax {
			s.erased[n-1] = erasedRange{hull(s.erased[n-1].Range, r), clock}
		} else {
			s.erased = append(s.erased, erasedRange{r, clock})
		}
	}
	s.pending.Store(int64(len(s.erased)))
	s.mu.Unlock()
	s.notify()
}

// hull returns the least range that contains both.
func hull(a, b Range) Range {
	if bytes.Compare(b.Lo, a.Lo) < 0 {
		a.Lo = b.Lo
	}
	if a.Hi != nil && (b.Hi == nil || bytes.Compare(b.Hi, a.Hi) > 0) {
		a.Hi = b.Hi
	}
	return a
}

func (s *shrinker) run() {
	defer s.done.Done()
	for {
		select {
		case <-s.stop:
			return
		case <-s.wake:
		}
		s.woken.Store(false)
		start := time.Now()
		oldest, _ := s.t.cache.OldestMoment()
		for r, ok := s.take(oldest); ok && !s.stopping(); r, ok = s.take(oldest) {
			s.walk(r)
		}
		if s.dueKept(oldest) {
			s.walkKept(oldest)
			s.oldest = oldest
		}
		select {
		case <-s.stop:
			return
		case <-time.After(shrinkPauseMin + shrinkPauseShare*time.Since(start)):
		}
	}
}

// dueKept reports whether to walk over the leaves with versions that nobody sees. The
// walk itself makes notes, which may count as late, so it is not made for the sake of
// those for ever.
func (s *shrinker) dueKept(oldest uint64) bool {
	late := s.kept.late.Swap(false)
	if oldest != s.oldest {
		s.again = 0
		return true
	}
	if late {
		s.again++
	}
	return late && s.again <= shrinkAgainMax
}

func (s *shrinker) stopping() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// take returns a range of which no open moment sees what it had.
func (s *shrinker) take(oldest uint64) (Range, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range s.erased {
		if r.clock <= oldest {
			s.erased = append(s.erased[:i], s.erased[i+1:]...)
			s.pending.Store(int64(len(s.erased)))
			return r.Range, true
		}
	}
	return Range{}, false
}

// walk shrinks the leaves of a range. It is given up on the first failure, which
// others will meet as well.
func (s *shrinker) walk(r Range) {
	at := r.Lo
	for !s.stopping() {
		if s.t.cache.ThrottleUnpaced() != nil {
			return
		}
		g, p, err := s.t.locate(0, &seek{key: at}, 0)
		if err != nil {
			return
		}
		pid, hi := p.view.PID(), bytes.Clone(p.node.hi())
		last := p.node.isLast() || r.Hi != nil && bytes.Compare(hi, r.Hi) >= 0
		g.Unpin()
		s.t.shrink(pid)
		if last {
			return
		}
		at = hi
	}
}

// walkKept shrinks the leaves that have versions of which none open before oldest
// is left to see them.
func (s *shrinker) walkKept(oldest uint64) {
	for _, pid := range s.kept.list(oldest) {
		if s.stopping() || s.t.cache.ThrottleUnpaced() != nil {
			return
		}
		if s.t.load(pid, false) != nil {
			continue
		}
		s.kept.forget(pid) // the merge notes it again if something stays
		s.t.shrink(pid)
	}
}

// shrink consolidates the page, to the log if it takes much more there than it
// has to, if it is in memory and would become smaller.
func (t *Tree) shrink(pid PID) {
	g := t.cache.Pin()
	defer g.Unpin()
	v, err := t.cache.View(g, pid)
	if err != nil || !v.Resident() || v.Owned() || isChunk(v.Base()) {
		return
	}
	m := newMerger()
	defer m.release()
	n, err := m.mergeView(nil, v, t.folder())
	if err != nil || n == nil {
		return
	}
	inLog, _ := v.LogBytes()
	rewrite := inLog > 2*(len(n)+shrinkOverhead)
	if !rewrite && len(n) >= len(v.Base()) {
		return
	}
	if err := t.cache.Consolidate(g, pid, rewrite); err != nil {
		t.metrics.tendErrors.Add(1)
		return
	}
	t.shrinker.shrunk.Add(1)
}

// shrinkOverhead is what a page takes in the log beside its base, about.
const shrinkOverhead = 64

// keptLeaves are the leaves in which a merge kept versions for open moments, with
// the bytes of those. The page cache tells it from Merge, so it takes its lock for
// an instant and calls nothing.
//
// A merge collects the open moments before it folds, and notes what it kept for them
// afterwards. In between the last of them may have been closed, and who closed it saw
// nothing that was kept for it: such a note is late, and wakes the shrinker itself.
// Who notes looks for moments after the note is made, and who closes one looks for
// notes after it is closed, so one of them sees the other.
type keptLeaves struct {
	leaves atomic.Int64
	bytes  atomic.Int64
	late   atomic.Bool

	shrinker atomic.Pointer[shrinker]

	mu    sync.Mutex // a leaf of the lock order
	pages map[PID]keptLeaf
}

type keptLeaf struct {
	bytes  int32
	oldest uint64 // the least moment from which on one of them may go
}

// keptLeavesMax bounds the memory, to some 50 MiB. Leaves beyond are forgotten.
const keptLeavesMax = 1 << 20

func newKeptLeaves() *keptLeaves { return &keptLeaves{pages: make(map[PID]keptLeaf)} }

// note takes in what a merge has made of a page.
func (k *keptLeaves) note(pid PID, n node) {
	versioned := n.isLeaf() && n.versioned()
	if !versioned && k.leaves.Load() == 0 {
		return
	}
	var now keptLeaf
	if versioned {
		now = keptIn(n)
	}
	k.mu.Lock()
	before, had := k.pages[pid]
	switch {
	case now.bytes == 0:
		delete(k.pages, pid)
	case had || len(k.pages) < keptLeavesMax:
		k.pages[pid] = now
	default:
		now.bytes = 0
	}
	k.bytes.Add(int64(now.bytes - before.bytes))
	k.leaves.Store(int64(len(k.pages)))
	k.mu.Unlock()
	if s := k.shrinker.Load(); s != nil && now.bytes != 0 {
		// At 0 a moment is being opened, and the merge may have kept all for its sake;
		// it may be one that is opened anew and does not become the oldest.
		if oldest, _ := s.t.cache.OldestMoment(); oldest == 0 || now.oldest <= oldest {
			k.late.Store(true)
			s.notify()
		}
	}
}

func (k *keptLeaves) forget(pid PID) {
	k.mu.Lock()
	k.bytes.Add(-int64(k.pages[pid].bytes))
	delete(k.pages, pid)
	k.leaves.Store(int64(len(k.pages)))
	k.mu.Unlock()
}

// list returns the leaves that have something to drop if oldest is the oldest
// moment.
func (k *keptLeaves) list(oldest uint64) []PID {
	k.mu.Lock()
	defer k.mu.Unlock()
	var pids []PID
	for pid, leaf := range k.pages {
		if leaf.oldest <= oldest {
			pids = append(pids, pid)
		}
	}
	return pids
}

// keptIn sums up what a leaf holds for moments: versions that newer ones hide,
// tombstones and stamps. Operands are no such thing.
func keptIn(n node) keptLeaf {
	k := keptLeaf{oldest: newestMoment}
	newer := uint64(0)
	for i := range n.count() {
		e := n.entry(i)
		size := 0
		if e.flags&entryStamp != 0 {
			size = 8
			k.oldest = min(k.oldest, n.newest())
		}
		if e.flags&entryOlder != 0 && newer != 0 {
			// From the moment of the newer one on nobody sees this.
			size = n.offset(i+1) - n.offset(i) + 10
			k.oldest = min(k.oldest, newer)
		}
		if e.flags&entryTombstone != 0 {
			size = n.offset(i+1) - n.offset(i) + 10
			k.oldest = min(k.oldest, e.stamp)
		}
		k.bytes += int32(size)
		newer = e.stamp
	}
	return k
}
