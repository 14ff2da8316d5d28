package pagecache

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/log"
)

// loads makes concurrent demand for one absent page read it once.
type loads struct {
	bytes atomic.Int64 // Atomic. Of buffers of loads under way.

	mu      sync.Mutex
	pending map[PID]*load
}

type load struct {
	done chan struct{}
	err  error
}

// Load brings the page into memory: it reads the fragments that are missing, in
// parallel, and folds the page. It returns nil when the page is resident or the
// PID free, and after Load the page may be evicted again at once. Errors: a
// *log.CorruptError, ErrClosed, the file system's.
//
// REQUIRES: the caller holds no guard.
func (c *Cache) Load(pid PID) error { return c.loadOnce(pid, loadedToRead) }

// LoadToScan is Load of a page that is not expected to be read again soon.
func (c *Cache) LoadToScan(pid PID) error { return c.loadOnce(pid, loadedToScan) }

func (c *Cache) loadOnce(pid PID, why loadReason) error {
	c.loads.mu.Lock()
	if l := c.loads.pending[pid]; l != nil {
		c.loads.mu.Unlock()
		<-l.done
		return l.err
	}
	l := &load{done: make(chan struct{})}
	c.loads.pending[pid] = l
	c.loads.mu.Unlock()

	c.noteUse()
	c.makeRoom()
	l.err = c.load(pid, why)

	c.loads.mu.Lock()
	delete(c.loads.pending, pid)
	c.loads.mu.Unlock()
	close(l.done)
	return l.err
}

// load repeats until the page is resident: between reading the positions and
// publishing what they hold, the page may be freed, rewritten or evicted anew.
func (c *Cache) load(pid PID, why loadReason) error {
	for {
		absent, resident, err := c.missing(pid)
		if err != nil || resident {
			return ignoreGone(err)
		}
		done, err := c.tryLoad(pid, absent, why)
		if done || err != nil {
			return ignoreGone(err)
		}
	}
}

// tryLoad reports false if the page is not as absent says any more.
func (c *Cache) tryLoad(pid PID, absent absence, why loadReason) (bool, error) {
	yield(yieldLoadRead)
	defer c.countBuffers(absent)()
	read, reads, err := c.readFragments(pid, absent)
	c.metrics.loads.Add(1)
	c.metrics.reads.Add(uint64(reads))
	if err != nil {
		if c.stillMissing(pid, absent) {
			return false, err
		}
		return false, nil // what was read is no part of the page any more
	}
	return c.publishLoaded(pid, absent, read, why)
}

// countBuffers counts what readFragments reads towards CacheSize, the gaps between
// neighbours included, until the function it returns is called.
func (c *Cache) countBuffers(a absence) (release func()) {
	n, from := int64(0), 0
	for _, to := range c.appendRuns(nil, a.positions) {
		n += int64(endOf(a.positions[to-1]) - a.positions[from].LSN)
		from = to
	}
	c.loads.bytes.Add(n)
	return func() { c.loads.bytes.Add(-n) }
}

// An absence is what an absent node says: where a page's fragments up to a
// version are.
type absence struct {
	version   uint64
	stamp     uint64         // newest of the page
	positions []log.Position // oldest first
}

// missing reads the page's absent node.
func (c *Cache) missing(pid PID) (absence, bool, error) {
	g := c.Pin()
	defer g.Unpin()
	v, err := c.Peek(g, pid)
	if err != nil || v.Resident() {
		return absence{}, true, err
	}
	return absence{v.bottom.version, v.bottom.stamp, v.bottom.appendPositions(nil)}, false, nil
}

func (c *Cache) stillMissing(pid PID, a absence) bool {
	now, resident, err := c.missing(pid)
	return err == nil && !resident && now.version == a.version && slices.Equal(now.positions, a.positions)
}

// readGap is how far apart in a segment two fragments may lie, in bytes, that are read
// together: a read costs as much as some ten times that.
const readGap = 16 << 10

// readFragments reads the fragments at a's positions, all at once: neighbours
// with one read, others in parallel. It returns the number of reads.
func (c *Cache) readFragments(pid PID, a absence) ([]Fragment, int, error) {
	n := len(a.positions)
	fragments := make([]Fragment, n)
	runs := c.appendRuns(nil, a.positions)
	errs := make([]error, len(runs))
	read := func(k int) {
		from, to := 0, runs[k]
		if k > 0 {
			from = runs[k-1]
		}
		errs[k] = c.readRun(pid, a, from, fragments[from:to])
	}
	var wg sync.WaitGroup
	for k := 1; k < len(runs); k++ {
		wg.Go(func() { read(k) })
	}
	read(0)
	wg.Wait()
	paths.Hit(paths.Load)
	if len(runs) > 1 {
		paths.Hit(paths.LoadInParallel)
	}
	if len(runs) < n {
		paths.Hit(paths.ReadTogether)
	}
	c.fillStamps(fragments, a)
	return fragments, len(runs), errors.Join(errs...)
}

// appendRuns appends to dst where each run of neighbours ends.
func (c *Cache) appendRuns(dst []int, ps []log.Position) []int {
	for i := 1; i < len(ps); i++ {
		last, next := ps[i-1], ps[i]
		if next.LSN < endOf(last) || next.LSN-endOf(last) > readGap || c.log.SegmentOf(last.LSN) != c.log.SegmentOf(next.LSN) {
			dst = append(dst, i)
		}
	}
	return append(dst, len(ps))
}

// readRun reads the fragments of a run that begins with that of number from.
func (c *Cache) readRun(pid PID, a absence, from int, fragments []Fragment) error {
	updates, err := c.log.ReadTogether(a.positions[from : from+len(fragments)])
	if err != nil {
		return err
	}
	for i, u := range updates {
		if fragments[i], err = c.fragmentOf(pid, a, from+i, u); err != nil {
			return err
		}
	}
	return nil
}

// fillStamps stamps the deltas that were read without one, since they stand in
// early parts of groups. When their page was evicted no read snapshot could miss
// them (see needsStamps), so any stamp that keeps the order of the chain serves:
// that of the next newer delta, or the newest of the page. What was there at Open
// every moment since then sees.
func (c *Cache) fillStamps(fragments []Fragment, a absence) {
	newest := a.stamp
	for i := len(fragments) - 1; i > 0; i-- {
		if a.positions[i].LSN < c.opened.lsn {
			newest = min(newest, c.opened.clock-1)
		}
		if fragments[i].Stamp == 0 {
			fragments[i].Stamp = newest
		}
		newest = fragments[i].Stamp
	}
}

// fragmentOf checks that an update is what the page needs at a position.
func (c *Cache) fragmentOf(pid PID, a absence, i int, u log.Update) (Fragment, error) {
	p := a.positions[i]
	want := a.version - uint64(len(a.positions)-1-i)
	isBase := u.Kind != log.KindAppend
	if u.PID != pid || isBase != (i == 0) || u.Version != want {
		return Fragment{}, c.log.Corrupt(p, fmt.Errorf("page %d version %d %v stands where page %d version %d is expected", u.PID, u.Version, u.Kind, pid, want))
	}
	data := u.Payload
	if u.Compressed {
		var err error
		if data, err = c.decompress(data); err != nil {
			return Fragment{}, c.log.Corrupt(p, err)
		}
	}
	if isBase {
		return Fragment{Data: data}, nil
	}
	return Fragment{Data: data, Stamp: u.Stamp}, nil
}

// publishLoaded folds what was read with the deltas in memory and publishes the
// page. It reports false if the page is not as a says any more.
func (c *Cache) publishLoaded(pid PID, a absence, read []Fragment, why loadReason) (bool, error) {
	s := c.scratch.get()
	defer c.scratch.put(s)
	for {
		done, again, err := c.tryPublishLoaded(s, pid, a, read, why)
		if done || !again || err != nil {
			return done, err
		}
		spin()
	}
}

func (c *Cache) tryPublishLoaded(s *scratch, pid PID, a absence, read []Fragment, why loadReason) (done, again bool, err error) {
	g := c.Pin()
	defer g.Unpin()
	v, err := c.Peek(g, pid)
	if err != nil || v.Resident() {
		return true, false, err
	}
	if !c.isAbsence(s, v, a) {
		return false, false, nil
	}
	if v.Owned() {
		err := c.lend(s, v, read)
		return err == nil, false, err
	}
	data, err := c.foldLoaded(s, v, read)
	if err != nil {
		return false, false, err
	}
	n := len(a.positions) + v.Deltas()
	ref, b := c.newBottom(nodeBase, v.head.version, max(v.bottom.stamp, newestStamp(s.merging.Fragments)), n, data)
	b.flags = v.bottom.flags
	copy(b.positionArea(), v.bottom.positionArea())
	i := n
	for d := v.top(); d != nil; d = c.olderDelta(d) {
		i--
		b.setPosition(i, d.position())
		b.flags |= d.flags & nodePartUnstamped
	}
	if why == loadedToRead {
		b.flags |= nodeRead
	}
	probation := b.flags&nodeKeep == 0 && !c.options.InMemory && (why == loadedToScan || !v.bottom.mark.isGhost())
	b.mark.setLoaded(probation)
	yield(yieldLoadPublish)
	if !c.table.slot(pid).CompareAndSwap(v.word, uint64(ref)) {
		c.dropNode(ref)
		return false, true, nil
	}
	if len(a.positions) > 1 || v.Deltas() > 0 {
		paths.Hit(paths.LoadPartlyEvicted)
	}
	c.retireChain(g, v.word)
	if probation {
		c.probation.enter(pid, int64(c.arena.Size(ref)), why)
	}
	c.noteGrowth()
	return true, false, nil
}

// foldLoaded folds a page as it is loaded. Nothing can be freed here, since
// nothing is written: a merge that would free pages is done again without
// dropping anything, and leaves that to the next consolidation.
func (c *Cache) foldLoaded(s *scratch, v View, read []Fragment) ([]byte, error) {
	m := &s.merging
	fold := func(keepAll bool) ([]byte, error) {
		m.reset(v.pid)
		if !v.appendDeltas(m) {
			return nil, fmt.Errorf("pagecache: page %d: a delta is being installed in a page nobody owns", v.pid)
		}
		for i := len(read) - 1; i >= 0; i-- {
			m.Fragments = append(m.Fragments, read[i])
		}
		slices.Reverse(m.Fragments)
		m.Base = true
		c.moments.collect(m, &c.clock)
		m.KeepAll = m.KeepAll || keepAll
		data, err := c.merge(s.data[:0], m)
		s.data = data
		return data, err
	}
	if len(read) == 1 && v.Deltas() == 0 {
		m.reset(v.pid)
		return read[0].Data, nil
	}
	data, err := fold(false)
	if err == nil && len(m.freed) > 0 {
		data, err = fold(true)
	}
	return data, err
}
