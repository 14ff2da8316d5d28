package pagecache

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pulkdb/db/log"
)

// How much of the log is live, how much of it there may be, and how writers are
// slowed while there is more.
//
// Live data are what all pages would take in the log if each were written merged
// now. That is known only of pages that are: of the others it is
//
//	bases + growth x deltas + records of freed pages + a record's header per page
//
// bases and deltas being the bytes that pages refer to in the log, counted as they
// are written and given up, and growth what a byte of delta adds to a base when it
// is merged: nearly 1 where keys are new, 0 where values replace others, less than
// 0 where keys are deleted. The cleaner measures it: as the log grows it merges
// pages picked at random and forgets the result. What was written since by writers that
// outran it counts as growing by nothing, until it has looked. So deletes that nobody has
// merged yet, blind ones, make room needed smaller at once, and space follows before
// they are merged.
//
// The goal is Options.SpaceTarget percent of live data, or spaceSegmentsMin segments
// beside them in a store so small that this is more. All files of the log count, and those
// of the newest page-table snapshot. The pace is a delay per byte of log that doubles with each
// sixth of slack/paceRangeShare that space is above where it begins, so writers meet it gently,
// and far above the goal they all but stop. One wait is paceWaitMax at most, and there
// is no pace when the cleaner finds nothing to do. Writers pay in Throttle, before an
// operation holds anything.
type spaceBook struct {
	// Atomic.
	bases  atomic.Int64  // bytes of bases in the log that pages refer to
	growth atomic.Uint64 // Float64bits
	pace   atomic.Int64  // ns per KiB of log
	room   atomic.Int64  // bytes up to slack/roomShare above the goal
	paid   atomic.Uint64 // LSN: what was written below it was waited for
	debt   atomic.Int64  // ns that somebody is to wait
	waited atomic.Int64  // ns
	turn   atomic.Int64  // bytes: what SpaceTarget allows times its share beyond live data; see shouldRewrite
	stuck  atomic.Bool   // the cleaner found nothing to do although space exceeds its goal

	sampled atomic.Uint64 // LSN: the log's end when growth was last measured; set by who holds cleaner.mu
}

// space is the log's use of the disk.
type space struct {
	total   int64 // bytes of all files
	live    int64 // bytes they need not exceed if all pages were merged
	waiting int64 // of total, in segments without live data, that wait for snapshots
	idle    int64 // of total, in files that wait to be reused
	goal    int64
	slack   int64 // bytes between live data and the goal
}

const (
	// spaceSegmentsMin is the least excess over live data, in segments, that is
	// allowed: two are open, some files wait to be reused, and some segments for
	// page-table snapshots.
	spaceSegmentsMin = 12

	sampleSegmentShare = 2  // growth is measured so often per segment written
	samplePages        = 12 // by so many pages
	// growthShare is the share of all deltas that are merged until older samples
	// count half, about.
	growthShare = 1.0 / 4
	// sampleWeightMin is the least that a sample counts: some 200 pages are enough, and what
	// is written may change from one minute to the next.
	sampleWeightMin = 1.0 / 16

	paceWaitMin = 500 * time.Microsecond // shorter waits are put together
	paceWaitMax = 200 * time.Millisecond
	paceDebtMax = 400 * time.Millisecond
	// The pace begins with paceMin per KiB, slack/paceRangeShare below where it is
	// 2^paceDoublings times as much. That is at the goal, if slack/snapshotShare waits
	// for a page-table snapshot; the less waits, the lower.
	paceRangeShare = 12
	paceMin        = 2 * time.Microsecond
	paceDoublings  = 6
	paceMax        = 100 * time.Millisecond

	freeRecordBytes = 40 // about, with its header

	roomShare = 4 // see mayGather
)

// measureSpace adds up the segments.
func (c *Cache) measureSpace(segments []log.SegmentInfo) space {
	var s space
	if c.options.InMemory {
		return s
	}
	referred, pieces := int64(0), int64(0)
	for _, g := range segments {
		size := c.sizeOf(g)
		s.total += size
		referred += max(g.Live, 0)
		pieces += max(g.Pieces, 0)
		if g.End != 0 && g.Live == 0 {
			s.waiting += size
		}
	}
	s.idle = c.log.IdleBytes()
	s.total += s.idle + c.checkpoint.bytes.Load()
	s.live = c.liveBytes(referred) + min(c.pids.used(), pieces)*recordOverhead
	least := spaceSegmentsMin * int64(c.log.SegmentBytes())
	s.slack = max(s.live*int64(c.options.SpaceTarget-100)/100, least)
	s.goal = s.live + s.slack
	// Not the slack that a small store has beyond its share: segments need that.
	share := float64(c.options.SpaceTarget-100) / 100
	c.space.turn.Store(int64(min(float64(s.live)*(1+share)*share, math.MaxInt64/2)))
	return s
}

// sizeOf is the bytes a segment takes. An open one may have the file of an earlier
// one.
func (c *Cache) sizeOf(s log.SegmentInfo) int64 {
	if s.End == 0 {
		return int64(c.log.SegmentBytes())
	}
	return int64(s.End - s.Base)
}

// liveBytes says what pages that refer to so many bytes of the log need of it.
func (c *Cache) liveBytes(referred int64) int64 {
	bases := min(max(c.space.bases.Load(), 0), referred)
	frees := min(int64(c.pids.free())*freeRecordBytes, referred-bases)
	deltas, growth := referred-bases-frees, math.Float64frombits(c.space.growth.Load())
	if growth > 0 {
		unseen := int64(c.log.Tail(log.Fresh)) - int64(c.space.sampled.Load()) - int64(c.log.SegmentBytes())
		deltas = max(deltas-max(unseen, 0), 0)
	}
	live := float64(bases) + growth*float64(deltas) + float64(frees)
	return min(max(int64(live), referred/16), referred)
}

// noteBase counts a base that pages begin to refer to, or cease to.
func (c *Cache) noteBase(p log.Position, live bool) {
	if live {
		c.space.bases.Add(int64(p.Size))
	} else {
		c.space.bases.Add(-int64(p.Size))
	}
}

// sampleGrowth measures growth anew if the log has grown since.
//
// REQUIRES: the caller holds clean.mu and no guard.
func (c *Cache) sampleGrowth(segments []log.SegmentInfo) {
	tail := c.log.Tail(log.Fresh)
	since := int64(tail) - int64(c.space.sampled.Load())
	if since < int64(c.log.SegmentBytes()/sampleSegmentShare) {
		return
	}
	defer c.space.sampled.Store(uint64(tail))
	referred := int64(0)
	for _, g := range segments {
		referred += max(g.Live, 0)
	}
	last := uint64(c.pids.max())
	if last == 0 {
		return
	}
	var grown, deltas float64
	for range samplePages {
		g, d := c.samplePage(PID(rand.Uint64N(last) + 1))
		grown += float64(g)
		deltas += float64(d)
	}
	// The sample stands for the deltas that were written since the last one.
	share := growthShare * float64(referred-c.space.bases.Load())
	if deltas == 0 || share <= 0 {
		return
	}
	now := math.Float64frombits(c.space.growth.Load())
	weight := min(1, max(sampleWeightMin, float64(since)/share))
	c.space.growth.Store(math.Float64bits(now + (grown/deltas-now)*weight))
}

// samplePage says by how much the page's base in the log would grow if it were
// written merged, and how many bytes of deltas would go into it. A page that
// cannot be merged now gives nothing.
func (c *Cache) samplePage(pid PID) (grown, deltas int64) {
	absent, resident, err := c.missing(pid)
	if err != nil {
		return 0, 0
	}
	var read []Fragment
	if !resident {
		if len(absent.positions) > 1 {
			if read, _, err = c.readFragments(pid, absent); err != nil {
				return 0, 0
			}
		}
	}
	s := c.scratch.get()
	defer c.scratch.put(s)
	g := c.Pin()
	defer g.Unpin()
	v, err := c.Peek(g, pid)
	if err != nil || v.Owned() || v.Resident() != resident || v.bottom.positions == 0 {
		return 0, 0
	}
	inLog, places := v.LogBytes()
	base := int64(v.bottom.position(0).Size)
	if deltas = int64(inLog) - base; places < 2 {
		return 0, 0
	}
	m := &s.merging
	if resident {
		if !v.Merging(m) {
			return 0, 0
		}
	} else if read == nil || !c.isAbsence(s, v, absent) || !c.collectLoaded(m, v, read) {
		return 0, 0
	}
	m.Trial = true
	data, err := c.merge(s.data[:0], m)
	if err != nil {
		return 0, 0 // who needs the page meets it
	}
	s.data = data
	merged := int64(len(data))
	if packed, ok := c.codec.compress(data); ok {
		merged = int64(len(packed))
		c.codec.keep(packed)
	}
	for _, f := range m.freed {
		if w := c.table.slot(f.pid).Load(); !c.isFree(w) && w&slotWriter == 0 {
			merged -= int64(c.bottomOf(w).position(0).Size)
		}
	}
	return merged + updateOverhead - base, deltas
}

// collectLoaded makes m of what was read and the deltas in memory.
func (c *Cache) collectLoaded(m *Merging, v View, read []Fragment) bool {
	m.reset(v.pid)
	if !v.appendDeltas(m) {
		return false
	}
	for i := len(read) - 1; i >= 0; i-- {
		m.Fragments = append(m.Fragments, read[i])
	}
	slices.Reverse(m.Fragments)
	m.Base = true
	c.moments.collect(m, &c.clock)
	return true
}

// setPace sets the pace for s.
func (c *Cache) setPace(s space) {
	// What is written next goes into files that wait to be reused.
	used := s.total - s.idle
	c.space.room.Store(s.goal + s.slack/roomShare - used)
	unit := float64(s.slack) / paceRangeShare
	// What waits for a page-table snapshot is as good as gone: else writers would be held
	// up before each of them, and while it is written. It may fill the last part below
	// the goal.
	soon := s.slack / snapshotShare
	x := float64(used-min(s.waiting, soon)-(s.goal-soon))/unit + 1
	if x <= 0 || c.space.stuck.Load() {
		c.space.pace.Store(0)
		return
	}
	if c.space.pace.Load() == 0 {
		c.space.paid.Store(uint64(c.log.Tail(log.Fresh)))
	}
	p := float64(paceMin) * math.Exp2(min(x*paceDoublings, 40))
	c.space.pace.Store(int64(min(p, float64(paceMax))))
}

// keepPace waits as the pace demands for what was written since somebody last did.
func (c *Cache) keepPace() {
	b := &c.space
	pace := b.pace.Load()
	if pace == 0 {
		return
	}
	tail := uint64(c.log.Tail(log.Fresh))
	paid := b.paid.Load()
	if tail <= paid || !b.paid.CompareAndSwap(paid, tail) {
		return
	}
	owed := min(int64(tail-paid)*pace>>10, int64(paceDebtMax))
	debt := b.debt.Add(owed)
	if debt < int64(paceWaitMin) {
		return
	}
	wait := min(debt, int64(paceWaitMax))
	b.debt.Store(min(debt-wait, int64(paceDebtMax)))
	c.metrics.slowed.Add(1)
	b.waited.Add(wait)
	time.Sleep(time.Duration(wait))
}
