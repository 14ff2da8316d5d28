package db

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
	"unsafe"
)

// An operation is a kind of call that Metrics counts.
type operation uint8

const (
	opGet operation = iota
	opSet
	opDelete
	opCompareAndSwap
	opDeleteRange
	opMerge
	opBatch
	opCommit
	opScan
	opSync
	operations // how many there are
)

// sampleEvery says that of so many calls of one kind the recorder times one.
// Reading the clock twice costs a fifth of a Get in memory; the other calls
// either wait for the disk or are few.
var sampleEvery = [operations]uint64{
	opGet:            64,
	opSet:            16,
	opDelete:         16,
	opCompareAndSwap: 16,
	opDeleteRange:    1,
	opMerge:          16,
	opBatch:          1,
	opCommit:         1,
	opScan:           16,
	opSync:           1,
}

// stripes is how many copies of the counters there are. Goroutines are spread
// over them, so that they do not pass one cache line around.
const stripes = 16

// A recorder counts calls and times a sample of them. Its zero value is ready.
type recorder struct {
	// Atomic.
	counts  [stripes]counters
	latency [operations]histogram
}

// counters fill cache lines of their own.
type counters struct {
	calls [operations]atomic.Uint64
	bytes atomic.Uint64 // of keys and values written
	_     [128 - (operations+1)*8%128]byte
}

// start counts a call. It returns when the call began, or the zero Time if
// this call is not timed.
func (r *recorder) start(op operation) time.Time {
	n := r.counts[stripe()].calls[op].Add(1)
	if n%sampleEvery[op] != 1%sampleEvery[op] {
		return time.Time{}
	}
	return time.Now()
}

// stop records the time of a call that start decided to time.
func (r *recorder) stop(op operation, start time.Time) {
	if !start.IsZero() {
		r.latency[op].record(time.Since(start))
	}
}

// wrote counts bytes of keys and values that were written.
func (r *recorder) wrote(bytes int) { r.counts[stripe()].bytes.Add(uint64(bytes)) }

// written returns the sum of what wrote was given.
func (r *recorder) written() (sum uint64) {
	for i := range r.counts {
		sum += r.counts[i].bytes.Load()
	}
	return sum
}

// read returns what was recorded of op.
func (r *recorder) read(op operation) OpMetrics {
	var m OpMetrics
	for i := range r.counts {
		m.Count += r.counts[i].calls[op].Load()
	}
	m.Latency = r.latency[op].read()
	return m
}

// stripe returns the index of the calling goroutine's counters. The address of
// a local variable stays on the goroutine's stack and so tells goroutines
// apart; it need not always be the same one.
func stripe() uint {
	var here byte
	address := uint64(uintptr(unsafe.Pointer(&here))) >> 11 // stacks are at least 2 KiB
	return uint(address*0x9e3779b97f4a7c15>>32) % stripes
}

// A histogram counts durations in buckets that are at most 1/4 wide: four for
// every power of two of nanoseconds.
type histogram struct {
	// Atomic.
	buckets [histogramBuckets]atomic.Uint64
	sum     atomic.Uint64 // nanoseconds
	max     atomic.Uint64 // nanoseconds
}

// histogramBuckets reach to 2^40 ns, which is 18 minutes.
const histogramBuckets = 4 * 40

func (h *histogram) record(d time.Duration) {
	ns := uint64(max(d, 0))
	h.buckets[bucketOf(ns)].Add(1)
	h.sum.Add(ns)
	for old := h.max.Load(); ns > old && !h.max.CompareAndSwap(old, ns); old = h.max.Load() {
	}
}

func (h *histogram) read() Latency {
	l := Latency{
		Sum: time.Duration(h.sum.Load()),
		Max: time.Duration(h.max.Load()),
	}
	for i := range h.buckets {
		l.buckets[i] = h.buckets[i].Load()
		l.Samples += l.buckets[i]
	}
	return l
}

// bucketOf returns the index of the bucket that ns belongs to: the position of
// the highest bit, and the two bits below it.
func bucketOf(ns uint64) int {
	if ns < 4 {
		return int(ns)
	}
	high := bits.Len64(ns) - 1 // 2 or more
	index := 4*(high-1) + int(ns>>(high-2)&3)
	return min(index, histogramBuckets-1)
}

// bucketEnd returns the least number of nanoseconds above bucket index.
func bucketEnd(index int) uint64 {
	index++
	if index < 4 {
		return uint64(index)
	}
	high := index/4 + 1
	return uint64(4+index%4) << (high - 2)
}

// An OpMetrics says how often a kind of call was made and how long it took.
type OpMetrics struct {
	Count   uint64 // calls since Open, failed ones too
	Latency Latency
}

// A Latency is how long calls took. Of calls that are short, a sample is
// timed.
type Latency struct {
	Samples uint64        // calls that were timed
	Sum     time.Duration // of all samples
	Max     time.Duration // the longest sample

	buckets [histogramBuckets]uint64
}

// Mean returns the mean of the samples, or 0 if there are none.
func (l Latency) Mean() time.Duration {
	if l.Samples == 0 {
		return 0
	}
	return l.Sum / time.Duration(l.Samples)
}

// Quantile returns a duration that the share q of the samples, from 0 to 1, do
// not exceed; it is at most a quarter above the least such one.
func (l Latency) Quantile(q float64) time.Duration {
	if l.Samples == 0 {
		return 0
	}
	rank := max(1, uint64(math.Ceil(min(max(q, 0), 1)*float64(l.Samples))))
	var seen uint64
	for i, n := range l.buckets {
		if seen += n; seen >= rank {
			return min(time.Duration(bucketEnd(i)), l.Max)
		}
	}
	return l.Max
}

// Metrics are counts and times since Open, and sizes now. They are read one
// after another while the store is at work, so they need not agree to the last
// call.
type Metrics struct {
	Get            OpMetrics // Get, GetTo and Has, also of snapshots and transactions
	Set            OpMetrics
	Delete         OpMetrics
	CompareAndSwap OpMetrics
	DeleteRange    OpMetrics
	Merge          OpMetrics
	Batch          OpMetrics // Batch.Commit
	Commit         OpMetrics // of transactions that write, also by Update
	Scan           OpMetrics // Scan and ScanPrefix, without the moves
	Sync           OpMetrics // DB.Sync

	Versions VersionMetrics
	Memory   MemoryMetrics
	Pages    PageMetrics
	Disk     DiskMetrics
	Space    SpaceMetrics
}

// VersionMetrics say what open snapshots, iterators and transactions keep, and
// how transactions fared.
type VersionMetrics struct {
	Open      int64         // snapshots, iterators and transactions that are open
	OldestAge time.Duration // since the oldest of them was opened; 0 if none is
	KeptPages int64         // pages with versions that only those see
	KeptBytes int64         // and the bytes of such versions, about: as of each page's last consolidation
	Conflicts uint64        // commits that failed with ErrConflict
	Retries   uint64        // tries of Update after the first
}

// MemoryMetrics are sizes in bytes. Used is what CacheSize bounds, and the sum of the
// parts after it. Versions that open snapshots keep are in Pages and Deltas, and
// VersionMetrics.KeptBytes says how much they are.
type MemoryMetrics struct {
	Used      int64
	Pages     int64 // in memory, merged
	Deltas    int64 // changes of pages that are not merged yet
	Table     int64 // of all pages
	Positions int64 // where pages that are not in memory are on disk
	Retired   int64 // replaced, and kept until readers have left
	Buffers   int64 // for writing and reading
	Held      int64 // page memory reserved for what is in use, and for more of the same sizes
	Mapped    int64 // page memory taken from the operating system: all but Buffers, and what is free
}

// PageMetrics say what the pages of the store went through.
type PageMetrics struct {
	Pages          uint64 // in use now
	Loads          uint64 // pages that were read from disk
	Misses         uint64 // of Get.Count, those that waited for a page from disk
	Evictions      uint64 // pages that were dropped from memory
	Gathered       uint64 // pages in several places on disk that were merged and written for who reads them next
	GatheredBytes  uint64 // of those: part of DiskMetrics.BytesWritten
	GatherReads    uint64 // from files for that, not in DiskMetrics.Reads
	Folds          uint64 // pages that were merged in memory
	Rewrites       uint64 // pages that were merged and written
	Conflicts      uint64 // writes that met a page changed meanwhile, and began again
	Snapshots      uint64 // snapshots of the page table that were written
	Snapshotting   bool   // one is being written now
	ReplayedOnOpen uint64 // page updates that Open read from the log's tail
}

// DiskMetrics say what was read from and written to files.
type DiskMetrics struct {
	UserBytes     uint64 // of keys and values in writes that succeeded
	BytesWritten  uint64 // to the log
	SnapshotBytes uint64 // written to snapshots of the page table
	Writes        uint64 // calls to write, of the log
	Syncs         uint64 // calls to sync: many writes share one
	Reads         uint64 // for PageMetrics.Loads: those in parallel count each, neighbours that are read together once
	Throttled     uint64 // writes that waited because the disk fell behind
}

// SpaceMetrics say what the log takes on disk, and what the cleaner does to give
// space back.
type SpaceMetrics struct {
	Segments     int           // files of the log that are in use
	Bytes        int64         // of all files
	Live         int64         // what all pages would take if they were written merged now, about
	Goal         int64         // Bytes above which writers are slowed more and more
	Cleaned      uint64        // segments that were emptied
	CleanedBytes uint64        // of those
	MovedPages   uint64        // pages that were written anew for that
	MovedBytes   uint64        // of those: part of DiskMetrics.BytesWritten
	Reads        uint64        // from files for that, not in DiskMetrics.Reads
	SlowedWrites uint64        // writes that were held up because space was above its goal
	SlowedTime   time.Duration // for how long, all together
}

// Metrics returns what the store counted. After Close the counts stay, and the sizes
// are those of a store that holds nothing.
func (d *DB) Metrics() Metrics {
	all := d.tree.Metrics()
	cache := all.Cache
	return Metrics{
		Get:            d.recorder.read(opGet),
		Set:            d.recorder.read(opSet),
		Delete:         d.recorder.read(opDelete),
		CompareAndSwap: d.recorder.read(opCompareAndSwap),
		DeleteRange:    d.recorder.read(opDeleteRange),
		Merge:          d.recorder.read(opMerge),
		Batch:          d.recorder.read(opBatch),
		Commit:         d.recorder.read(opCommit),
		Scan:           d.recorder.read(opScan),
		Sync:           d.recorder.read(opSync),
		Versions: VersionMetrics{
			Open:      cache.OpenMoments,
			OldestAge: cache.OldestMoment,
			KeptPages: all.KeptLeaves,
			KeptBytes: all.KeptBytes,
			Conflicts: all.Conflicts,
			Retries:   d.retries.Load(),
		},
		Memory: MemoryMetrics{
			Used:      cache.MemoryBytes,
			Pages:     cache.Memory.Bases,
			Deltas:    cache.Memory.Deltas,
			Table:     cache.Memory.Table,
			Positions: cache.Memory.Positions,
			Retired:   cache.Memory.Retired,
			Buffers:   cache.Memory.Buffers,
			Held:      cache.HeldBytes,
			Mapped:    cache.MappedBytes,
		},
		Pages: PageMetrics{
			Pages:          cache.Pages,
			Loads:          cache.Loads,
			Misses:         all.Misses,
			Evictions:      cache.Evictions,
			Gathered:       cache.Gathered,
			GatheredBytes:  cache.GatheredBytes,
			GatherReads:    cache.GatherReads,
			Folds:          cache.Folds,
			Rewrites:       cache.Rewrites,
			Conflicts:      cache.Conflicts,
			Snapshots:      cache.Snapshots,
			Snapshotting:   cache.Snapshotting,
			ReplayedOnOpen: cache.ReplayedOnOpen,
		},
		Disk: DiskMetrics{
			UserBytes:     d.recorder.written(),
			BytesWritten:  cache.Log.BytesWritten,
			SnapshotBytes: cache.SnapshotBytes,
			Writes:        cache.Log.Writes,
			Syncs:         cache.Log.Syncs,
			Reads:         cache.FragmentReads,
			Throttled:     cache.Log.Throttled,
		},
		Space: SpaceMetrics{
			Segments:     cache.Segments,
			Bytes:        cache.SpaceBytes,
			Live:         cache.LiveBytes,
			Goal:         cache.SpaceGoal,
			Cleaned:      cache.CleanedSegments,
			CleanedBytes: cache.CleanedBytes,
			MovedPages:   cache.MovedPages,
			MovedBytes:   cache.RewrittenBytes,
			Reads:        cache.CleanerReads,
			SlowedWrites: cache.SlowedWrites,
			SlowedTime:   cache.SlowedTime,
		},
	}
}
