package workload

import (
	"math/bits"
	"time"
)

// A Histogram counts durations in buckets that are 1/32 wide. It belongs to one
// goroutine at a time.
type Histogram struct {
	buckets [32 * 64]uint64
	Count   uint64        // of all durations
	Max     time.Duration // the longest
}

// Record counts d.
func (h *Histogram) Record(d time.Duration) {
	h.buckets[bucketOf(d)]++
	h.Count++
	h.Max = max(h.Max, d)
}

// Add counts what other has counted.
func (h *Histogram) Add(other *Histogram) {
	for i, n := range other.buckets {
		h.buckets[i] += n
	}
	h.Count += other.Count
	h.Max = max(h.Max, other.Max)
}

// Quantile returns a duration that the share q of all do not exceed, at most 1/32
// too high.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := uint64(q * float64(h.Count))
	var seen uint64
	for i, n := range h.buckets {
		if seen += n; n > 0 && seen >= rank {
			return min(bucketEnd(i), h.Max)
		}
	}
	return h.Max
}

// bucketOf returns the index of d's bucket: the position of the highest bit and
// the five bits below it.
func bucketOf(d time.Duration) int {
	n := uint64(max(d, 0))
	if n < 32 {
		return int(n)
	}
	shift := bits.Len64(n) - 6
	return 32*(shift+1) + int(n>>shift&31)
}

// bucketEnd returns the largest duration of bucket i.
func bucketEnd(i int) time.Duration {
	if i < 32 {
		return time.Duration(i)
	}
	shift := i/32 - 1
	return time.Duration((uint64(32+i%32)+1)<<shift - 1)
}
