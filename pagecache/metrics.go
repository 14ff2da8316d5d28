package pagecache

import (
	"sync/atomic"
	"time"

	"github.com/pulkdb/db/log"
)

// counters are the cache's own; they are written on slow paths only.
type counters struct {
	conflicts     atomic.Uint64
	folds         atomic.Uint64
	rewrites      atomic.Uint64
	evictions     atomic.Uint64
	loads         atomic.Uint64
	reads         atomic.Uint64
	snapshots     atomic.Uint64
	snapshotTime  atomic.Uint64 // ns
	snapshotBytes atomic.Uint64
	snapshotting  atomic.Bool
	replayed      atomic.Uint64
	slowed        atomic.Uint64
}

// Metrics are counts since Open, and sizes now.
type Metrics struct {
	Log log.Metrics

	Memory         MemoryMetrics
	MemoryBytes    int64 // the sum of those that CacheSize bounds
	HeldBytes      int64 // page memory in use, and free but reserved for pieces of the same size
	MappedBytes    int64 // page memory taken from the operating system, less what it was given back
	RetiredItems   int   // pieces that wait for readers to leave
	Pages          uint64
	FreePages      uint64
	OpenMoments    int64
	OldestMoment   time.Duration // age of the oldest open moment
	OpenedMoments  uint64
	Conflicts      uint64        // updates that met a changed page
	Folds          uint64        // consolidations in memory
	Rewrites       uint64        // consolidations to the log
	Evictions      uint64        // pages
	Gathered       uint64        // pages in several places of the log that were written merged for who reads them next
	GatheredBytes  uint64        // written for that, in no other count but the log's
	GatherReads    uint64        // reads of the log for that, in no other count
	Loads          uint64        // pages
	FragmentReads  uint64        // reads of the log for those: neighbouring fragments are read together
	Snapshots      uint64        // page-table snapshots written
	Snapshotting   bool          // one is being written
	SnapshotTime   time.Duration // spent on those
	SnapshotBytes  uint64        // written to their files
	ReplayedOnOpen uint64        // updates that Open replayed

	Segments        int    // files of the log in use
	SpaceBytes      int64  // of all files of the log, and of page-table snapshots
	LiveBytes       int64  // what the pages would take in the log if all were merged now, about
	SpaceGoal       int64  // bytes: above, writers are slowed more and more
	CleanedSegments uint64 // emptied by moving what was live in them
	MovedPages      uint64 // for that
	CleanerReads    uint64 // reads of the log for that, in no other count
	CleanedBytes    uint64 // of those segments
	RewrittenBytes  uint64 // written for that
	SlowedWrites    uint64 // that waited for the cleaner
	SlowedTime      time.Duration
}

// MemoryMetrics say what memory is used for, in bytes. CacheSize bounds the sum of
// all of them.
type MemoryMetrics struct {
	Table     int64 // mapping table
	Bases     int64 // pages, with the places in the log where they came from
	Deltas    int64 // of pages in memory and others
	Positions int64 // of pages that are not in memory: where they are
	Retired   int64 // waits for readers to leave
	Buffers   int64 // of the log, and of loads under way; outside page memory
}

func (c *Cache) memoryMetrics() MemoryMetrics {
	return MemoryMetrics{
		Table:     c.arena.UsedAs(memoryTable),
		Bases:     c.arena.UsedAs(memoryBases),
		Deltas:    c.arena.UsedAs(memoryDeltas) + c.arena.UsedAs(memoryCells),
		Positions: c.arena.UsedAs(memoryPositions),
		Retired:   c.arena.UsedAs(memoryRetired),
		Buffers:   c.bufferBytes(),
	}
}

// sum is all of it.
func (m MemoryMetrics) sum() int64 {
	return m.Table + m.Bases + m.Deltas + m.Positions + m.Retired + m.Buffers
}

// Metrics returns the cache's and the log's. After Close only the counters are left.
func (c *Cache) Metrics() Metrics {
	m := &c.metrics
	out := Metrics{
		Log:            c.log.Metrics(),
		OpenedMoments:  c.moments.opened.Load(),
		Conflicts:      m.conflicts.Load(),
		Folds:          m.folds.Load(),
		Rewrites:       m.rewrites.Load(),
		Evictions:      m.evictions.Load(),
		Gathered:       c.gather.pages.Load(),
		GatheredBytes:  c.gather.bytes.Load(),
		GatherReads:    c.gather.reads.Load(),
		Loads:          m.loads.Load(),
		FragmentReads:  m.reads.Load(),
		Snapshots:      m.snapshots.Load(),
		SnapshotTime:   time.Duration(m.snapshotTime.Load()),
		SnapshotBytes:  m.snapshotBytes.Load(),
		ReplayedOnOpen: m.replayed.Load(),

		CleanedBytes:    c.clean.bytes.Load(),
		RewrittenBytes:  c.clean.written.Load(),
		SlowedTime:      time.Duration(c.space.waited.Load()),
		CleanedSegments: c.clean.cleaned.Load(),
		MovedPages:      c.clean.moved.Load(),
		CleanerReads:    c.clean.reads.Load(),
		SlowedWrites:    m.slowed.Load(),
	}
	if !c.closed.Load() {
		c.measureSizes(&out)
	}
	return out
}

// measureSizes fills in what is there now.
func (c *Cache) measureSizes(out *Metrics) {
	free := uint64(c.pids.free())
	segments := c.log.Segments()
	space := c.measureSpace(segments)
	out.Memory = c.memoryMetrics()
	out.MemoryBytes = out.Memory.sum()
	out.HeldBytes = c.arena.Held()
	out.MappedBytes = c.arena.Resident()
	out.RetiredItems = c.epochs.Pending()
	out.Pages = uint64(c.pids.max()) - free
	out.FreePages = free
	out.OpenMoments = c.moments.open.Load()
	_, out.OldestMoment = c.OldestMoment()
	out.Snapshotting = c.metrics.snapshotting.Load()
	out.Segments = len(segments)
	out.SpaceBytes, out.LiveBytes, out.SpaceGoal = space.total, space.live, space.goal
}
