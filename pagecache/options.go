package pagecache

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/pulkdb/db/internal/vfs"
)

// Options say how to open a Cache. Zero values mean the defaults.
type Options struct {
	// Dir is the directory of the store; it is created. Unused with InMemory.
	Dir string

	// FS is the file system; nil: the operating system's.
	FS vfs.FS

	// Materializer folds fragments. Required.
	Materializer Materializer

	// CacheSize is the budget for memory, in bytes: pages, deltas, mapping table,
	// positions of evicted pages, and buffers. Default 256 MiB, at least 64 KiB.
	// Pages are evicted to keep within it. What buffers take beyond a quarter of it
	// comes on top.
	CacheSize int64

	// MergeDeltas is the number of deltas at which a page is folded in memory.
	// Default 24. More make updates cheaper and reads dearer.
	MergeDeltas int

	// RewriteShare is the share of its base, in percent, that a page's deltas in
	// the log reach at least before the page is written merged on their account; those
	// of a page that is updated more often than others reach more, see shouldRewrite. Default
	// 50. More means fewer bytes written and more reads for a page that comes back.
	RewriteShare int

	// LoadReads is the number of places in the log that an evicted page may have
	// its fragments in; one with more is written merged before it is evicted.
	// Default 32. Fewer are allowed if so many would take too much memory. The cleaner
	// writes pages merged as well, so that under uniform updates, at the default
	// SpaceTarget, a page has some ten.
	LoadReads int

	// SpaceTarget is what the files of the log may take, in percent of live data,
	// before writers are slowed for the cleaner's sake. Default 158. More means fewer
	// bytes written. More than 100,000 counts as that.
	SpaceTarget int

	// SegmentBytes and BufferBytes are the log's; see log.Options. Default for
	// the first: a 96th of CacheSize, at least 1 MiB and at most 64 MiB.
	SegmentBytes int
	BufferBytes  int

	// Preallocate makes syncs faster; see log.Options.
	Preallocate bool

	// FlushInterval is how often what was written is made durable without being
	// asked for; 0: never. See log.Options.
	FlushInterval time.Duration

	// IdleAfter is how long the store must not have been used before pages that are
	// not in memory and stand in several places of the log are written merged, for
	// those who read them later, and the log ends with a durable mark. Default 1 s;
	// less than 0: never.
	IdleAfter time.Duration

	// SnapshotBytes is the number of log bytes after which a page-table snapshot
	// is written. Default 128 MiB. After a crash about twice as much is replayed
	// at most. Fewer make opening after a crash faster, and cost more snapshots.
	SnapshotBytes int64

	// Compress says how bases are compressed in the log, where that pays.
	Compress Compression

	// ReadOnly opens without changing any file, beside other such openers.
	ReadOnly bool

	// InMemory keeps everything in memory and touches no file. CacheSize is then
	// no limit.
	InMemory bool

	// Logger takes what an operator should know; nil: discarded.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.OS
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&o.CacheSize, 256<<20)
	setDefault(&o.MergeDeltas, 24)
	setDefault(&o.RewriteShare, 50)
	setDefault(&o.LoadReads, 32)
	setDefault(&o.IdleAfter, time.Second)
	setDefault(&o.SnapshotBytes, 128<<20)
	setDefault(&o.SpaceTarget, 158)
	o.SpaceTarget = min(o.SpaceTarget, spaceTargetMax)
	o.CacheSize = min(o.CacheSize, cacheSizeMax)
	if o.SegmentBytes == 0 {
		o.SegmentBytes = min(max(int(o.CacheSize/96), segmentBytesLeast), segmentBytesMost) &^ (segmentBytesLeast - 1)
		setDefault(&o.BufferBytes, segmentBytesLeast) // whatever the cache, so that limits do not depend on it
	}
	return o
}

// Segments are cleaned and reused one by one, and a store keeps some of them beside
// its data, so they are small where the cache is; but each is a file.
const (
	segmentBytesLeast = 1 << 20
	segmentBytesMost  = 64 << 20
)

// SpaceTargetMin is the least SpaceTarget.
const SpaceTargetMin = 110

// Who wants no limit may give the largest number there is. Percentages of these do not
// overflow.
const (
	spaceTargetMax = 100_000
	cacheSizeMax   = 1 << 50
)

func setDefault[T int | int64 | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

func (o Options) validate() error {
	switch {
	case o.Materializer == nil:
		return fmt.Errorf("pagecache: Options.Materializer is required")
	case o.CacheSize < 64<<10:
		return fmt.Errorf("pagecache: Options.CacheSize is %d, less than 64 KiB", o.CacheSize)
	case o.MergeDeltas < 1:
		return fmt.Errorf("pagecache: Options.MergeDeltas is %d", o.MergeDeltas)
	case o.RewriteShare < 1:
		return fmt.Errorf("pagecache: Options.RewriteShare is %d", o.RewriteShare)
	case o.LoadReads < 1:
		return fmt.Errorf("pagecache: Options.LoadReads is %d", o.LoadReads)
	case o.Compress > ZstdBetter:
		return fmt.Errorf("pagecache: Options.Compress is %d", o.Compress)
	case o.SpaceTarget < SpaceTargetMin:
		return fmt.Errorf("pagecache: Options.SpaceTarget is %d, less than %d", o.SpaceTarget, SpaceTargetMin)
	case o.SnapshotBytes < 0:
		return fmt.Errorf("pagecache: Options.SnapshotBytes is %d", o.SnapshotBytes)
	case o.InMemory && o.ReadOnly:
		return fmt.Errorf("pagecache: Options.InMemory and Options.ReadOnly exclude each other")
	}
	return nil
}
