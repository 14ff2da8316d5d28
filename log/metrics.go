package log

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Metrics counts what a log has done since it was opened.
type Metrics struct {
	Records      uint64 // written, aborted ones included
	BytesWritten uint64 // of records, to files
	Writes       uint64 // file writes
	Syncs        uint64 // file syncs
	SyncTime     Histogram
	Reads        uint64 // by Read
	ReadsMemory  uint64 // of these, from a buffer
	Waits        uint64 // calls that waited for durability
	Throttled    uint64 // calls of Throttle that waited
	Recycled     uint64 // segments given up
	QueuedBytes  int64  // sealed and not written now
	BufferBytes  int64  // memory of buffers now
}

// A Histogram counts durations: bucket i those under 2^i microseconds that are
// in no lower one; the last all others.
type Histogram struct {
	Buckets [24]uint64
	Sum     time.Duration
}

type metrics struct {
	bytes, writes, syncs, reads, readsMemory atomic.Uint64
	waits, throttled, recycled               atomic.Uint64

	syncBuckets [24]atomic.Uint64
	syncNanos   atomic.Int64
}

func (m *metrics) observeSync(d time.Duration) {
	m.syncs.Add(1)
	m.syncNanos.Add(int64(d))
	i := bits.Len64(uint64(d.Microseconds()))
	m.syncBuckets[min(i, len(m.syncBuckets)-1)].Add(1)
}

// Metrics returns the counters, one read after the other.
func (l *Log) Metrics() Metrics {
	m := &l.metrics
	out := Metrics{
		BytesWritten: m.bytes.Load(),
		Writes:       m.writes.Load(),
		Syncs:        m.syncs.Load(),
		Reads:        m.reads.Load(),
		ReadsMemory:  m.readsMemory.Load(),
		Waits:        m.waits.Load(),
		Throttled:    m.throttled.Load(),
		Recycled:     m.recycled.Load(),
		QueuedBytes:  l.queuedBytes(),
	}
	for i := range l.streams {
		out.Records += l.streams[i].records.Load()
	}
	for i := range m.syncBuckets {
		out.SyncTime.Buckets[i] = m.syncBuckets[i].Load()
	}
	out.SyncTime.Sum = time.Duration(m.syncNanos.Load())
	out.BufferBytes = l.BufferBytes()
	return out
}

// BufferBytes returns the memory of buffers now.
func (l *Log) BufferBytes() int64 {
	if l.slabs == nil {
		return 0
	}
	return l.slabs.made.Load() * int64(l.slabs.bytes)
}
