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

func (c *chunk) setAllFree() {
	for i := range c.free {
		c.free[i] = ^uint64(0)
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

func trailingZeros(w uint64) int { return bits.TrailingZeros64(w) }
