package log

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/pulkdb/db/internal/testhooks"
)

// scanWork is how many bytes are summed up per byte of a damaged segment to look
// for updates at every place; beyond that only short ones are found.
const (
	scanWork      = 64
	scanShort     = 4 << 10
	scanLongest   = 2 << 20
	salvageLooked = 1 << 12 // incarnations tried for a segment without a header
	salvageTried  = 64      // and at every place, if its first record cannot be read either

	// incarnationsAhead is how much newer than any that is known the newest may be,
	// whose headers are all lost.
	incarnationsAhead = 16
)

// A segmentScan is the scan of one segment.
type segmentScan struct {
	s       *Salvager
	segment *salvagedSegment
	data    []byte
	fn      func(Salvaged) error
	groups  map[LSN][]Salvaged
	budget  int
	bad     int  // where what cannot be read begins; 0: nowhere
	loose   bool // what was found last is an update by itself: the next may follow
}

func (x *segmentScan) run() error {
	seg := x.segment
	if !seg.headed {
		x.findIncarnations()
	}
	off, last := headerBytes, headerBytes
	for off < len(x.data) {
		n, err := x.at(off)
		if err != nil {
			return err
		}
		if n > 0 {
			x.endBad(off)
			off += n
			last = off
			continue
		}
		if x.bad == 0 {
			x.bad = off
		}
		off++
	}
	end := seg.base + LSN(last)
	if !seg.headed && last > headerBytes {
		x.s.note(seg, seg.name, 0, seg.base, seg.base+headerBytes, errHeader)
	}
	if seg.placed {
		x.s.ends[seg.stream] = max(x.s.ends[seg.stream], end)
	}
	if expected := seg.end; expected > end {
		x.s.note(seg, seg.name, int64(last), end, expected, fmt.Errorf("%w: records up to %v", errShort, expected))
	}
	return nil
}

// endBad notes the bytes that could not be read, once something behind them can.
func (x *segmentScan) endBad(off int) {
	if x.bad != 0 {
		x.s.note(x.segment, x.segment.name, int64(x.bad), x.segment.base+LSN(x.bad), x.segment.base+LSN(off), errChecksum)
	}
	x.bad = 0
}

// findIncarnations finds out which incarnation wrote the segment, whose header is
// lost: one that is known, or one that its first record fits.
func (x *segmentScan) findIncarnations() {
	seg := x.segment
	seg.incarnations = slices.Clone(x.s.incarnations)
	if len(x.data) <= headerBytes || len(seg.incarnations) == 0 {
		return
	}
	newest := seg.incarnations[0] + incarnationsAhead
	for n := newest; n > 0 && newest-n < salvageLooked; n-- {
		if _, err := decodeRecord(x.data[headerBytes:], seg.base+headerBytes, seedOf(n)); err == nil {
			seg.incarnations = []uint64{n}
			x.s.know(n)
			return
		}
	}
	// The first record is lost too, but incarnations grow along the log.
	from, to := x.between()
	for n := to; n >= from && n > 0 && to-n < salvageTried; n-- {
		if !slices.Contains(seg.incarnations, n) {
			seg.incarnations = append(seg.incarnations, n)
		}
	}
}

// between returns the lowest and the highest incarnation that may have written the
// segment, by the headers before and behind it.
func (x *segmentScan) between() (from, to uint64) {
	from, to = 1, x.s.incarnations[0]+incarnationsAhead
	for _, seg := range x.s.segments {
		switch {
		case !seg.headed:
		case seg.base < x.segment.base:
			from = max(from, seg.incarnation)
		default:
			to = min(to, seg.incarnation)
		}
	}
	return from, to
}

// settle notes which incarnation wrote the segment, of which something was read.
func (x *segmentScan) settle(incarnation uint64) {
	x.segment.found = true
	if len(x.segment.incarnations) > 1 {
		x.segment.incarnations = []uint64{incarnation}
		x.s.know(incarnation)
	}
}

// at delivers what begins at off, a record or a single update, and returns how
// long it is; 0: nothing does.
func (x *segmentScan) at(off int) (int, error) {
	if len(x.data)-off < recordHeaderBytes || x.data[off+recordOffKind] == 0 && x.data[off+updateOffKind] == 0 {
		return 0, nil
	}
	lsn := x.segment.base + LSN(off)
	for _, incarnation := range x.segment.incarnations {
		if x.bad != 0 && !x.afford(x.recordSize(off)) {
			break
		}
		h, err := decodeRecord(x.data[off:], lsn, seedOf(incarnation))
		if err == nil {
			x.loose = false
			x.settle(incarnation)
			x.segment.mark = max(x.segment.mark, h.mark)
			x.s.raise(x.segment, incarnation, h.mark)
			return h.size, x.record(off, h, incarnation)
		}
	}
	if x.bad == 0 && !x.loose {
		return 0, nil // a record should begin here; its updates are behind its header
	}
	u, n, err := decodeUpdate(x.data[off:])
	if err != nil || n > scanLongest || !x.afford(n) {
		return 0, nil
	}
	for _, incarnation := range x.segment.incarnations {
		if u, err = verifyUpdate(x.data[off:off+n], lsn, seedOf(incarnation)); err == nil {
			x.settle(incarnation)
			u.Payload, x.loose = nil, !testhooks.SalvageMissSecond.On()
			// Only a part of a group, and not the last, has no stamp. Where the last is, its
			// record would have said.
			return n, x.fn(Salvaged{Update: u, Position: Position{lsn, uint32(n)}, Incarnation: incarnation, Partial: u.Stamp == 0})
		}
	}
	return 0, nil
}

func (x *segmentScan) recordSize(off int) int {
	return int(min(uint32(len(x.data)-off), binary.LittleEndian.Uint32(x.data[off+recordOffSize:])))
}

// afford reports whether n more bytes may be summed up.
func (x *segmentScan) afford(n int) bool {
	if n > scanShort && n > x.budget {
		return false
	}
	x.budget -= n
	return true
}

// record delivers the updates of a record that is whole.
func (x *segmentScan) record(off int, h recordHeader, incarnation uint64) error {
	if h.kind == recordAborted || h.kind == recordMark {
		return nil
	}
	p := x.data[off : off+h.size]
	var list []Salvaged
	for at := h.headerBytes(); !atEnd(p[at:]); {
		u, n, err := decodeUpdate(p[at:])
		if err != nil {
			x.s.note(x.segment, x.segment.name, int64(off+at), x.segment.base+LSN(off+at), x.segment.base+LSN(off+h.size), err)
			break
		}
		u.Payload = nil
		list = append(list, Salvaged{Update: u, Position: Position{x.segment.base + LSN(off+at), uint32(n)}, Incarnation: incarnation})
		at += n
	}
	if h.kind == recordGroupPart {
		if h.index == 0 {
			x.groups[h.first] = nil
		}
		x.groups[h.first] = append(x.groups[h.first], list...)
		return nil
	}
	if h.kind == recordGroupLast {
		list = append(x.groups[h.first], list...)
		delete(x.groups, h.first)
		for i := range list {
			list[i].Last = x.segment.base + LSN(off)
		}
	}
	for _, u := range list {
		if err := x.fn(u); err != nil {
			return err
		}
	}
	return nil
}
