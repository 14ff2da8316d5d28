package log

import "encoding/binary"

const (
	// searchWork is how many bytes a search sums up per byte of what it looks at;
	// beyond that it finds records of searchShort bytes at most.
	searchWork  = 256
	searchShort = 1 << 10
)

// A search looks for records at every place of a segment of which some bytes are not,
// or not known to be, as they were written. Any four bytes may pass for the size of a
// record, and to sum up what would be one at each place takes hours: so what is no
// record by its looks is passed over, and the work is bounded.
type search struct {
	data   []byte
	base   LSN
	seed   seed
	budget int // bytes that may be summed up
}

func newSearch(data []byte, base LSN, s seed) *search {
	return &search{data: data, base: base, seed: s, budget: searchWork * len(data)}
}

// next returns the first readable record at off or behind it, and where it is: -1 if there
// is none.
func (x *search) next(off int) (h recordHeader, at int) {
	for ; off+recordHeaderBytes <= len(x.data); off++ {
		size, ok := looksLikeRecord(x.data[off:], x.base+LSN(off))
		if !ok || size > searchShort && size > x.budget {
			continue
		}
		x.budget -= size
		if h, err := decodeRecord(x.data[off:], x.base+LSN(off), x.seed); err == nil {
			return h, off
		}
	}
	return h, -1
}

// looksLikeRecord reports whether a record may begin at the start of p, which is at lsn,
// and its size, by what can be told without summing it up.
func looksLikeRecord(p []byte, lsn LSN) (size int, ok bool) {
	h := recordHeader{kind: recordKind(p[recordOffKind])}
	if h.kind == 0 || h.kind > recordMark {
		return 0, false
	}
	n := binary.LittleEndian.Uint32(p[recordOffSize:])
	if uint64(n) > uint64(len(p)) || int(n) < h.headerBytes() {
		return 0, false
	}
	size = int(n)
	switch h.kind {
	case recordMark:
		return size, size == recordHeaderBytes
	case recordAborted:
		return size, size <= searchShort // its body can be anything; what follows says more
	}
	if h.kind.inGroup() && LSN(binary.LittleEndian.Uint64(p[recordOffFirst:])) > lsn {
		return 0, false
	}
	_, _, err := decodeUpdate(p[h.headerBytes():size])
	return size, err == nil
}

// marksIn returns the highest of the durable marks in the records of data at off or behind
// it, or the first above p.
func marksIn(data []byte, off int, base LSN, s seed, p LSN) (highest LSN) {
	x := newSearch(data, base, s)
	for h, at := x.next(off); at >= 0; h, at = x.next(at + h.size) {
		if highest = max(highest, h.mark); highest > p {
			break
		}
	}
	return highest
}

// findRecord returns the offset of the first readable record of data at off or behind it,
// -1 if there is none.
func findRecord(data []byte, off int, base LSN, s seed) int {
	_, at := newSearch(data, base, s).next(off)
	return at
}
