package tree

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"github.com/pulkdb/db/log"
)

// What a crash has torn is known from the bytes of the log: the tests read them by
// themselves, as package log has the formats in format.go and header.go.

const (
	wreckHeader       = 128 // bytes of a segment's
	wreckRecordHeader = 13
	wreckGroupHeader  = 25
	wreckGroupPart    = 3
	wreckGroupLast    = 4
	wreckMarkRecord   = 5
)

// A wreckSegment is a segment file of the whole store.
type wreckSegment struct {
	file         string
	base         log.LSN
	headed       bool
	stream       int
	prevBase     log.LSN
	prevEnd      log.LSN
	mark         log.LSN
	incarnations []uint64
	size         int64
	end          log.LSN // as the next one's header has it; 0: not known
	records      []wreckRecord
}

type wreckRecord struct {
	lsn   log.LSN
	size  int
	kind  byte
	mark  log.LSN
	first log.LSN // of its group

	incarnation uint64
}

func (r *wreckRecord) end() log.LSN { return r.lsn + log.LSN(r.size) }

var wreckTable = crc32.MakeTable(crc32.Castagnoli)

func wreckMix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// recordAt reads the record at off, if there is one.
func (s *wreckSegment) recordAt(data []byte, off int) (r wreckRecord, ok bool) {
	p := data[off:]
	if len(p) < wreckRecordHeader || p[8] == 0 || p[8] > wreckMarkRecord {
		return r, false
	}
	r = wreckRecord{lsn: s.base + log.LSN(off), size: int(binary.LittleEndian.Uint32(p[4:])), kind: p[8]}
	if r.size < wreckRecordHeader || r.size > len(p) {
		return r, false
	}
	for _, n := range s.incarnations {
		begin := uint32(wreckMix(wreckMix(n+0x9e3779b97f4a7c15) ^ uint64(r.lsn)))
		if crc32.Update(begin, wreckTable, p[4:r.size]) == binary.LittleEndian.Uint32(p) {
			r.incarnation = n
			if behind := binary.LittleEndian.Uint32(p[9:]); behind != 1<<32-1 && log.LSN(behind) <= r.lsn {
				r.mark = r.lsn - log.LSN(behind)
			}
			if r.kind == wreckGroupPart || r.kind == wreckGroupLast {
				r.first = log.LSN(binary.LittleEndian.Uint64(p[13:]))
			}
			return r, true
		}
	}
	return r, false
}

// readSegments takes in the headers of the segments and all records, those behind
// what cannot be read as well.
func (x *wreck) readSegments() {
	known := []uint64{}
	if id := x.files["STORE"]; len(id) >= wreckHeader {
		known = append(known, binary.LittleEndian.Uint64(id[32:]))
	}
	for name, data := range x.files {
		var base uint64
		if n, _ := fmt.Sscanf(name, "%016x.seg", &base); n != 1 || !strings.HasSuffix(name, ".seg") {
			continue
		}
		s := wreckSegment{file: name, base: log.LSN(base), size: int64(len(data))}
		if len(data) >= wreckHeader && bytes.HasPrefix(data, []byte("pulkseg\n")) && crc32.Checksum(data[:124], wreckTable) == binary.LittleEndian.Uint32(data[124:]) {
			le := binary.LittleEndian
			if le.Uint64(data[64:]) != base {
				continue // of a former life
			}
			s.headed, s.stream, s.incarnations = true, int(data[104]), []uint64{le.Uint64(data[32:])}
			s.prevBase, s.prevEnd, s.mark = log.LSN(le.Uint64(data[72:])), log.LSN(le.Uint64(data[80:])), log.LSN(le.Uint64(data[88:]))
			known = append(known, s.incarnations[0])
		}
		x.segments = append(x.segments, s)
	}
	slices.SortFunc(x.segments, func(a, b wreckSegment) int { return cmp.Compare(a.base, b.base) })
	for i := range x.segments {
		s := &x.segments[i]
		if !s.headed {
			s.incarnations = known
		} else if prev := x.segmentOf(s.prevBase); prev != nil && s.prevBase != 0 {
			prev.end = s.prevEnd
		}
		data := x.files[s.file]
		for off := wreckHeader; off < len(data); off++ {
			if r, ok := s.recordAt(data, off); ok {
				s.records = append(s.records, r)
				off += r.size - 1
			}
		}
	}
}

// segmentOf returns the segment that the LSN is in, nil if there is none.
func (x *wreck) segmentOf(lsn log.LSN) *wreckSegment {
	base := log.LSN(uint64(lsn) / x.segment * x.segment)
	for i := range x.segments {
		if x.segments[i].base == base {
			return &x.segments[i]
		}
	}
	return nil
}

// A wreckHit is bytes [from, to) of a file that are not as they were.
type wreckHit struct{ from, to int64 }

// isLeft reports whether all bytes [from, from+size) of a file are.
func (y *wreckage) isLeft(file string, from int64, size int) bool {
	return !slices.ContainsFunc(y.hits[file], func(h wreckHit) bool { return h.from < from+int64(size) && h.to > from })
}

func (y *wreckage) isRecordLeft(s *wreckSegment, r *wreckRecord) bool {
	return y.isLeft(s.file, int64(r.lsn-s.base), r.size)
}

// A wreckLog is what is left of the log, and what of that counts.
type wreckLog struct {
	y      *wreckage
	placed map[log.LSN]bool    // segments of which it is left what stream they are of
	counts map[log.LSN]bool    // segments that may count
	ends   map[log.LSN]log.LSN // where segments end, as far as that is left
	marks  [2]log.LSN          // below them the streams were durable
	torn   [2]log.LSN          // 0: nowhere
	doubt  map[log.LSN]log.LSN // by segment: from there on it may have been cut off
	own    map[wreckOwner]log.LSN

	// dropped: nothing is left of a segment, which is missing or has lost its header,
	// that says it was there or was durable, or there is no snapshot. So what an earlier
	// recovery cut off before it may come back.
	dropped bool
}

// A wreckOwner is what an incarnation wrote of a stream.
type wreckOwner struct {
	stream      int
	incarnation uint64
}

// log finds out what counts, as a recovery would: a stream ends at the first place
// that cannot be read and is above all marks that are left, a segment that is missing
// or without a header among them. Of one without a header something must say that it
// was durable; if there is one of which something does, a crash has not taken the
// headers, and all count.
func (y *wreckage) log() *wreckLog {
	l := &wreckLog{y: y, placed: map[log.LSN]bool{}, counts: map[log.LSN]bool{}, ends: map[log.LSN]log.LSN{}, marks: y.durable, doubt: map[log.LSN]log.LSN{}, own: map[wreckOwner]log.LSN{}}
	for i := range y.segments {
		s := &y.segments[i]
		if !l.headed(s) {
			continue
		}
		l.placed[s.base], l.counts[s.base] = true, true
		l.raise(s, s.mark)
		if prev := y.segmentOf(s.prevBase); prev != nil && s.prevBase != 0 {
			l.placed[prev.base], l.counts[prev.base], l.ends[prev.base] = true, true, s.prevEnd
			prev.stream = s.stream
		}
	}
	marked := map[log.LSN]bool{} // segments of which their own records say so
	for i := range y.segments {
		s := &y.segments[i]
		if _, is := y.files[s.file]; !is {
			continue
		}
		for _, r := range s.records {
			if y.isRecordLeft(s, &r) && l.before(s, r.lsn) && (s.end == 0 || r.lsn < s.end) {
				marked[s.base] = marked[s.base] || r.mark > s.base+wreckHeader
				if l.placed[s.base] {
					l.raise(s, r.mark)
				}
			}
		}
	}
	for i := range y.segments {
		if s := &y.segments[i]; s.prevBase != 0 && l.headed(s) {
			prev := y.segmentOf(s.prevBase)
			if (prev == nil || !l.headed(prev) && !y.needed[prev.file]) && s.prevEnd > y.replay[s.stream] && l.marks[s.stream] <= s.prevBase+wreckHeader {
				l.tear(s.stream, s.prevBase)
				l.dropped = l.dropped || prev != nil && prev.headed
			}
		}
	}
	beheaded := false
	for i := range y.segments {
		s := &y.segments[i]
		named := l.counts[s.base] && !(l.torn[s.stream] != 0 && s.base >= l.torn[s.stream])
		if l.counts[s.base] = l.headed(s) || named || marked[s.base] || y.needed[s.file]; l.counts[s.base] && !l.headed(s) {
			_, is := y.files[s.file]
			beheaded = beheaded || is
		}
	}
	for i := range y.segments {
		s := &y.segments[i]
		_, is := y.files[s.file]
		l.counts[s.base] = is && (l.counts[s.base] || beheaded)
	}
	for i := range y.segments {
		if s := &y.segments[i]; l.placed[s.base] {
			l.tearWithin(s)
		}
	}
	for i := range y.segments {
		l.doubtSegment(i)
	}
	return l
}

// raise takes in a mark.
func (l *wreckLog) raise(s *wreckSegment, mark log.LSN) {
	l.marks[s.stream] = max(l.marks[s.stream], mark)
	o := wreckOwner{s.stream, l.incarnation(s)}
	l.own[o] = max(l.own[o], mark)
}

// incarnation returns the one that wrote the segment; 0 if nothing is in it.
func (l *wreckLog) incarnation(s *wreckSegment) uint64 {
	switch {
	case s.headed:
		return s.incarnations[0]
	case len(s.records) > 0:
		return s.records[0].incarnation
	}
	for _, u := range l.y.updates {
		if u.file == s.file {
			return u.Incarnation
		}
	}
	return 0
}

// holds reports whether something in the segment is left.
func (l *wreckLog) holds(s *wreckSegment) bool { return l.holdsBehind(s, 0) }

// holdsBehind reports whether something is that lies behind the LSN.
func (l *wreckLog) holdsBehind(s *wreckSegment, at log.LSN) bool {
	y := l.y
	if _, is := y.files[s.file]; !is {
		return false
	}
	for _, r := range s.records {
		if r.lsn > at && y.isRecordLeft(s, &r) && l.before(s, r.lsn) {
			return true
		}
	}
	for i, u := range y.updates {
		if u.Position.LSN > at && y.left[i] && u.file == s.file && l.before(s, u.Position.LSN) {
			return true
		}
	}
	return false
}

func (l *wreckLog) tear(stream int, at log.LSN) {
	if l.torn[stream] == 0 || at < l.torn[stream] {
		l.torn[stream] = at
	}
}

// doubtSegment finds out where a segment may have been cut off by a recovery: if it
// is not left where it ended, nothing of its stream and incarnation follows, but
// something of another does, above the marks of its incarnation.
func (l *wreckLog) doubtSegment(i int) {
	y, s := l.y, &l.y.segments[i]
	if l.ends[s.base] != 0 || !l.holds(s) {
		return
	}
	followed, same := false, false
	for name := range y.needed {
		if _, is := y.files[name]; !is && name > s.file {
			followed = true
		}
	}
	for k := i + 1; k < len(y.segments); k++ {
		later := &y.segments[k]
		if !l.counts[later.base] || !l.holds(later) {
			continue
		}
		both := l.placed[later.base] && l.placed[s.base]
		if both && later.stream != s.stream || l.placed[later.base] && l.torn[later.stream] != 0 && later.base >= l.torn[later.stream] {
			continue
		}
		followed = followed || l.incarnation(later) > l.incarnation(s)
		same = same || both && l.incarnation(later) == l.incarnation(s)
	}
	if !followed || same || !y.proven {
		l.dropped = l.dropped || s.end != 0 && !same
		return
	}
	from := s.base + wreckHeader
	if l.headed(s) {
		from = max(from, s.mark)
	}
	for _, r := range s.records {
		if y.isRecordLeft(s, &r) {
			from = max(from, r.mark)
		}
	}
	if l.placed[s.base] {
		from = max(from, l.own[wreckOwner{s.stream, l.incarnation(s)}])
	}
	l.doubt[s.base] = from
}

// headed reports whether the segment's header is left.
func (l *wreckLog) headed(s *wreckSegment) bool {
	_, is := l.y.files[s.file]
	return is && s.headed && l.y.isLeft(s.file, 0, wreckHeader)
}

// before reports whether the LSN lies before the segment's end, as far as that is
// known.
func (l *wreckLog) before(s *wreckSegment, lsn log.LSN) bool {
	end := l.ends[s.base]
	return end == 0 || lsn < end
}

// tearWithin looks for the first place in a segment that cannot be read although
// something behind it can, or it is known to reach further.
func (l *wreckLog) tearWithin(s *wreckSegment) {
	y := l.y
	var items []wreckRecord // what can be read: records, and updates of others
	for _, r := range s.records {
		if y.isRecordLeft(s, &r) && l.before(s, r.lsn) {
			items = append(items, r)
		}
	}
	for i, u := range y.updates {
		if y.left[i] && u.file == s.file && (u.record == nil || !y.isRecordLeft(s, u.record)) && l.before(s, u.Position.LSN) {
			items = append(items, wreckRecord{lsn: u.Position.LSN, size: int(u.Position.Size)})
		}
	}
	slices.SortFunc(items, func(a, b wreckRecord) int { return cmp.Compare(a.lsn, b.lsn) })
	if end := l.ends[s.base]; end != 0 {
		items = append(items, wreckRecord{lsn: end})
	}
	at := s.base + wreckHeader
	for _, item := range items {
		if item.lsn > at && at >= l.marks[s.stream] {
			l.tear(s.stream, at)
			return
		}
		at = item.end()
	}
}

// countsAt reports whether what is left at the LSN counts. What an earlier recovery
// cut off never does; what one may have cut off does if the snapshot names it.
func (l *wreckLog) countsAt(lsn log.LSN) bool {
	s := l.y.segmentOf(lsn)
	return s != nil && l.counts[s.base] && (s.end == 0 || lsn < s.end) &&
		(!l.placed[s.base] || l.torn[s.stream] == 0 || lsn < l.torn[s.stream]) &&
		(l.doubt[s.base] == 0 || lsn < l.doubt[s.base] || l.y.listed[lsn])
}

// partial reports whether an update that is left is a part of a group whose last
// part is not, or is not known because its own record is not, and the snapshot does
// not name it. Without a stamp are only parts of groups.
func (l *wreckLog) partial(u *wreckUpdate) bool {
	r := u.record
	switch {
	case l.y.listed[u.Position.LSN]:
		return false
	case r == nil || !l.y.isRecordLeft(l.y.segmentOf(r.lsn), r):
		return u.Stamp == 0
	case r.kind != wreckGroupPart && r.kind != wreckGroupLast:
		return false
	}
	for i := range l.y.segments {
		s := &l.y.segments[i]
		for k := range s.records {
			if x := &s.records[k]; x.kind == wreckGroupLast && x.first == r.first {
				_, is := l.y.files[s.file]
				return !is || !l.y.isRecordLeft(s, x) || !l.countsAt(x.lsn)
			}
		}
	}
	return true
}

// unmissed reports whether something that counted is gone and nothing is left that
// says it had been durable: what a crash would have torn as well. Nor does a mark,
// if it is in segments that a crash has severed from those before by taking a name or
// a header: it does not say where those ended.
func (l *wreckLog) unmissed() bool {
	y := l.y
	for i, u := range y.updates {
		if !u.counted || y.left[i] {
			continue
		}
		s, at := y.segmentOf(u.Position.LSN), u.Position.LSN
		severed := l.torn[s.stream] > at && at >= y.replay[s.stream] && l.ends[s.base] == 0
		if at >= l.marks[s.stream] || severed && !l.holdsBehind(s, at) {
			return true
		}
	}
	return false
}

// harmless reports whether nothing that counted was hit.
func (y *wreckage) harmless() bool {
	if y.done.Files > 0 {
		return false
	}
	for i, u := range y.updates {
		if u.counted && !y.left[i] {
			return false
		}
	}
	return true
}
