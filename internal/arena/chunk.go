package arena

import (
	"math/bits"
	"unsafe"
)

const (
	pageShift     = 11
	pageBytes     = 1 << pageShift
	chunkBytes    = 1 << chunkShift
	pagesPerChunk = chunkBytes / pageBytes
	maxChunks     = 1 << 16 // 1 TiB with chunks of 16 MiB
	spanScatter   = 10125   // see spanOf
)

// A chunk is the metadata of one piece of memory from the system. It is created
// once for its index in the table and stays; its memory may go back and come
// again.
type chunk struct {
	// Guarded by Arena.mu.
	memory    unsafe.Pointer // nil: given back
	freePages int
	noRun     int // no run of this many free pages, or more, exists; 0: unknown
	firstFree int // no page before this word of free is free
	run       int // > 0: the first of this many chunks of one object; -1: a later one
	free      [pagesPerChunk / 64]uint64
	idle      [pagesPerChunk / 64]uint64 // of those: the system has their memory

	// The entries of the pages, scattered: see spanOf.
	spans [pagesPerChunk]span
}

// spanOf returns the entry of a page. Neighbouring pages have entries far apart,
// because goroutines that allocate the same size at the same time do so from
// neighbouring spans, and the words would share cache lines. The factor is odd,
// so each page has an entry of its own.
func (c *chunk) spanOf(page uint32) *span {
	return &c.spans[page*spanScatter%pagesPerChunk]
}

// setAllFree is for memory that the system has just mapped.
func (c *chunk) setAllFree() {
	for i := range c.free {
		c.free[i], c.idle[i] = ^uint64(0), ^uint64(0)
	}
	c.freePages, c.noRun, c.firstFree = pagesPerChunk, 0, 0
}

// takeRun takes n pages in a row, the lowest there are, or returns -1.
func (c *chunk) takeRun(n int) int {
	if n > c.freePages || (c.noRun != 0 && n >= c.noRun) {
		return -1
	}
	for c.firstFree < len(c.free) && c.free[c.firstFree] == 0 {
		c.firstFree++
	}
	length := 0
	for page := c.firstFree * 64; page < pagesPerChunk; {
		w := c.free[page/64] >> (page % 64)
		if w&1 == 0 { // skip the used pages that begin here
			skip := min(bits.TrailingZeros64(w), 64-page%64)
			page += skip
			length = 0
			continue
		}
		ones := min(bits.TrailingZeros64(^w), 64-page%64)
		if length+ones >= n {
			first := page - length
			c.setRange(first, n, false)
			c.freePages -= n
			return first
		}
		length += ones
		page += ones
	}
	c.noRun = n
	return -1
}

func (c *chunk) giveRun(first, n int) {
	c.setRange(first, n, true)
	c.freePages += n
	c.noRun = 0
	c.firstFree = min(c.firstFree, first/64)
}

func (c *chunk) setRange(first, n int, free bool) {
	for n > 0 {
		k := min(n, 64-first%64)
		mask := (^uint64(0) >> (64 - k)) << (first % 64)
		if free {
			c.free[first/64] |= mask
		} else {
			c.free[first/64] &^= mask
		}
		first += k
		n -= k
	}
}

// wake says that a run of pages, just taken, is written to, and returns how many of them
// were idle.
func (c *chunk) wake(first, n int) (woken int) {
	for n > 0 {
		k := min(n, 64-first%64)
		mask := (^uint64(0) >> (64 - k)) << (first % 64)
		woken += bits.OnesCount64(c.idle[first/64] & mask)
		c.idle[first/64] &^= mask
		first += k
		n -= k
	}
	return woken
}

// idlePages is how many pages are idle.
func (c *chunk) idlePages() (n int) {
	for _, w := range c.idle {
		n += bits.OnesCount64(w)
	}
	return n
}

// nextLazy returns the next run of pages from page first on that are free, not idle all,
// and that are whole pages of the system, which have unit pages each.
func (c *chunk) nextLazy(first, unit int) (from, n int) {
	lazy := func(page int) bool {
		idle := true
		for i := page; i < page+unit; i++ {
			if c.free[i/64]>>(i%64)&1 == 0 {
				return false
			}
			idle = idle && c.idle[i/64]>>(i%64)&1 != 0
		}
		return !idle
	}
	for from = first; from+unit <= pagesPerChunk; from += unit {
		if from%64 == 0 && unit <= 64 && c.free[from/64] == 0 {
			from += 64 - unit
			continue
		}
		if !lazy(from) {
			continue
		}
		for n = unit; from+n+unit <= pagesPerChunk && lazy(from+n); {
			n += unit
		}
		return from, n
	}
	return 0, 0
}

// setIdle says that the system has the memory of a run of free pages, and returns how many
// of them were not idle before.
func (c *chunk) setIdle(first, n int) int {
	woken := c.wake(first, n)
	for i := first; i < first+n; i++ {
		c.idle[i/64] |= 1 << (i % 64)
	}
	return n - woken
}

func trailingZeros(w uint64) int { return bits.TrailingZeros64(w) }
