package arena

import "math/bits"

// Size classes are multiples of 16 bytes: steps of 16 up to 128, from there
// eight to each doubling, so that rounding up wastes at most 12.5%.
const (
	minObjectBytes = 32
	maxClassBytes  = 64 << 10
	linearClasses  = (128-minObjectBytes)/16 + 1 // 32, 48, ... 128
	numClasses     = linearClasses + 9*8         // up to 64 KiB
	classLarge     = numClasses                  // a span that is one object
)

// Spans of one class are at most this large, unless that leaves fewer than
// minSpanObjects: small spans keep classes that are hardly used small.
const (
	maxSpanBytes   = 64 << 10
	minSpanObjects = 4
	maxSpanObjects = 64 // bits in a span's word
)

// A class describes the spans of one object size.
type class struct {
	size    uint32 // bytes of one object
	objects uint32 // in one span
	pages   uint32 // of one span; fewer where there is no run of so many: see takeSpanLocked
	inverse uint64 // 2^40/size, rounded up: off*inverse>>40 is off/size
}

var classes = makeClasses()

// classOf returns the smallest class whose objects have n bytes.
// REQUIRES: n <= maxClassBytes.
func classOf(n int) int {
	if n <= 128 {
		return (max(n, minObjectBytes)+15)/16 - minObjectBytes/16
	}
	k := bits.Len(uint(n-1)) - 1 // 2^k < n <= 2^(k+1)
	return linearClasses + (k-7)*8 + int(uint(n-1)>>(k-3))&7
}

// sizeOfClass is the inverse of classOf: the largest size that maps to c.
func sizeOfClass(c int) int {
	if c < linearClasses {
		return minObjectBytes + 16*c
	}
	c -= linearClasses
	k := c/8 + 7
	return 1<<k + (c%8+1)<<(k-3)
}

func makeClasses() (cs [numClasses]class) {
	for c := range cs {
		cs[c] = makeClass(uint32(sizeOfClass(c)))
	}
	return cs
}

// makeClass picks the span that wastes the smallest share of its pages, and
// of equal ones the larger.
func makeClass(size uint32) class {
	var best class
	bestWaste := 2.0
	for pages := uint32(1); ; pages++ {
		spanBytes := pages * pageBytes
		objects := min(spanBytes/size, maxSpanObjects)
		if spanBytes > maxSpanBytes && best.objects >= minSpanObjects {
			break
		}
		if objects < minSpanObjects {
			continue
		}
		waste := 1 - float64(objects*size)/float64(spanBytes)
		if waste <= bestWaste {
			bestWaste = waste
			best = class{size: size, objects: objects, pages: pages}
		}
		if spanBytes/size > maxSpanObjects {
			break
		}
	}
	best.inverse = 1<<40/uint64(size) + 1
	return best
}

// objectsIn is how many objects a span of so many pages holds.
func (k *class) objectsIn(pages uint32) uint32 {
	return min(pages*pageBytes/k.size, maxSpanObjects)
}

// fullWord is the word of a span of so many pages all of whose objects are free.
func (k *class) fullWord(pages uint32) uint64 {
	return ^uint64(0) >> (64 - k.objectsIn(pages))
}

// pagesFor is the least pages that hold so many objects.
func (k *class) pagesFor(objects uint32) uint32 {
	return (objects*k.size + pageBytes - 1) / pageBytes
}
