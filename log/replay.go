package log

import (
	"errors"
	"fmt"

	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/internal/testhooks"
)

// A foundSegment is a segment file that was there at Open, with a good header.
type foundSegment struct {
	name string
	segmentHeader
	end LSN // as the header of the next one states; 0: not known
}

// file returns the byte range that can hold records.
func (f *foundSegment) contains(lsn LSN) bool {
	return lsn >= f.base && uint64(lsn-f.base) < f.segmentBytes
}

// A partRef is where a part of a group is.
type partRef struct {
	segment *foundSegment
	lsn     LSN
	size    int
}

// A replay is one run of Log.Replay.
type replay struct {
	log   *Log
	from  Marks
	fn    func(Update, Position) error
	parts map[LSN][]partRef // by LSN of the first part: parts of groups whose last was not met
	mark  [streams]LSN      // the highest durable mark met

	scratch []byte // file contents
	part    []byte
}

// Replay calls fn with every update of the log at from or behind it, in LSN
// order, those of a group together where its last part stands. From zero
// Marks it begins at the first segment. Updates of aborted records and of groups without their
// last part are left out. It returns where each stream ends. Payload is valid
// during the call. What is not known to be durable it writes again (see renew).
//
// The end of a stream is the first record that cannot be read. If any durable
// mark says that the stream reached further, that is not the end but damage:
// *CorruptError, as for a segment that is missing. Otherwise it is a torn write,
// and what follows in the stream counts no more, now or later (L4).
//
// It is called once, before Start. An error of fn ends it and is returned.
func (l *Log) Replay(from Marks, fn func(Update, Position) error) (Marks, error) {
	if l.closed.Load() {
		return Marks{}, ErrClosed
	}
	if l.replayed || l.started.Load() {
		return Marks{}, fmt.Errorf("%w: replayed twice", ErrState)
	}
	l.replayed = true
	if l.options.Discard {
		return Marks{}, nil
	}
	for _, lsn := range from {
		l.raiseNextSegment(l.number(lsn)+1, "page-table snapshot")
	}
	if err := l.checkNumbers(); err != nil {
		return Marks{}, err
	}
	r := &replay{log: l, from: from, fn: fn, parts: map[LSN][]partRef{}}
	for _, h := range l.headless {
		if err := r.headless(h); err != nil {
			return Marks{}, err
		}
	}
	var chains [streams][]*foundSegment
	for s := range chains {
		var err error
		if chains[s], err = r.chain(Stream(s)); err != nil {
			return Marks{}, err
		}
		if len(chains[s]) > 0 && from == (Marks{}) && chains[s][0].prevBase != 0 {
			return Marks{}, r.missing(chains[s][0])
		}
	}
	for {
		s := 0
		if len(chains[Fresh]) == 0 || len(chains[Survivors]) > 0 && chains[Survivors][0].base < chains[Fresh][0].base {
			s = int(Survivors)
		}
		if len(chains[s]) == 0 {
			break
		}
		ended, err := r.segment(chains[s][0], chains[s][1:])
		if err != nil {
			return Marks{}, err
		}
		if ended {
			for _, f := range chains[s][1:] {
				r.drop(f)
			}
			chains[s] = nil
			continue
		}
		chains[s] = chains[s][1:]
	}
	if testhooks.ApplyPartOfBatch.On() {
		for _, parts := range r.parts {
			if err := r.group(parts[0].segment, make([]byte, recordGroupHeaderBytes), parts[0].lsn, parts); err != nil {
				return Marks{}, err
			}
		}
	}
	return Marks(l.recoveredEnd), nil
}

func (r *replay) drop(f *foundSegment) {
	r.log.options.Logger.Info("log: segment behind the end of the log", "segment", f.name, "stream", f.stream.String())
	r.log.dead = append(r.log.dead, f.name)
}

// missing is the error for the segment that f names as the one before it.
func (r *replay) missing(f *foundSegment) error {
	return &CorruptError{File: segmentName(f.prevBase), LSN: f.prevBase, Err: fmt.Errorf("segment is missing, but %s follows it", f.name)}
}

// chain returns the segments of a stream that are part of the log as far as
// their headers tell, oldest first: from the newest back along prev. Others are
// dead: an earlier recovery found that the log ended before them.
//
// A missing one was recycled if it ends before the replay. Otherwise it is
// damage if it was ever durable; if not, its name did not survive the crash,
// and all behind it is dead.
func (r *replay) chain(s Stream) ([]*foundSegment, error) {
	var all, live []*foundSegment
	for _, f := range r.log.found {
		if f.stream == s {
			all = append(all, f)
		}
	}
	for i := len(all) - 1; i >= 0; {
		f := all[i]
		live = append(live, f)
		i--
		for ; i >= 0 && all[i].base > f.prevBase; i-- {
			r.drop(all[i])
		}
		if f.prevBase == 0 || i >= 0 && all[i].base == f.prevBase {
			if i >= 0 {
				all[i].end = f.prevEnd
			}
			continue
		}
		if f.prevEnd <= r.from[s] {
			continue
		}
		begun := f.prevBase + headerBytes // a mark there says nothing of what is missing
		mark, err := r.highestMark(begun, live)
		if err != nil {
			return nil, err
		}
		if mark > begun {
			return nil, r.missing(f)
		}
		for _, d := range live {
			r.drop(d)
		}
		live = nil
	}
	for i, j := 0, len(live)-1; i < j; i, j = i+1, j-1 {
		live[i], live[j] = live[j], live[i]
	}
	return live, nil
}

// highestMark returns the highest durable mark in the headers and the readable
// records of segments. It stops at the first above p.
func (r *replay) highestMark(p LSN, segments []*foundSegment) (LSN, error) {
	highest := LSN(0)
	for _, f := range segments {
		if highest = max(highest, f.mark); highest > p {
			return highest, nil
		}
	}
	for _, f := range segments {
		data, err := r.load(f)
		if err != nil {
			return 0, err
		}
		if highest = max(highest, marksIn(data, headerBytes, f.base, seedOf(f.incarnation), p)); highest > p {
			break
		}
	}
	return highest, nil
}

// load reads a segment file, or as much of it as can count.
func (r *replay) load(f *foundSegment) ([]byte, error) {
	file, err := r.log.fs.OpenFile(r.log.path(f.name), 0, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		return nil, err
	}
	n := min(uint64(size), f.segmentBytes)
	if f.end != 0 {
		n = min(n, uint64(f.end-f.base))
	}
	if uint64(cap(r.scratch)) < n {
		r.scratch = make([]byte, n)
	}
	r.scratch = r.scratch[:n]
	k, err := file.ReadAt(r.scratch, 0)
	if uint64(k) < n {
		return nil, fmt.Errorf("log: reading %s: %w", f.name, err)
	}
	return r.scratch, nil
}

// segment replays one segment; later are those of the stream behind it. It
// reports whether the stream ends in it.
func (r *replay) segment(f *foundSegment, later []*foundSegment) (ended bool, err error) {
	l := r.log
	r.mark[f.stream] = max(r.mark[f.stream], f.mark)
	s := &segment{base: f.base, incarnation: f.incarnation, seed: seedOf(f.incarnation), stream: f.stream, recovered: true, mark: f.mark}
	s.linked.Store(true)
	end := f.end
	ended = end == 0 && len(later) == 0
	if end == 0 && !ended {
		// The next one was recycled, so this lies before the replay.
		end = f.base + LSN(f.segmentBytes)
		s.guessed.Store(true)
	} else if ended || end > r.from[f.stream] {
		data, err := r.load(f)
		if err != nil {
			return false, err
		}
		renewed, err := r.renew(f, data, later)
		if err != nil {
			return false, err
		}
		if renewed {
			l.unsynced = append(l.unsynced, s)
		}
		if end, err = r.records(f, data, later); err != nil {
			return false, err
		}
		ended = ended || end != f.end
	}
	s.end.Store(uint64(end))
	l.table.put(l.number(s.base), s)
	l.recoveredEnd[f.stream] = end
	l.recoveredLast[f.stream] = s
	return ended, nil
}

// records delivers the records of a segment, whose contents are data, and returns
// where they end.
func (r *replay) records(f *foundSegment, data []byte, later []*foundSegment) (LSN, error) {
	off, seed := headerBytes, seedOf(f.incarnation)
	from := r.from[f.stream]
	if f.contains(from) {
		off = max(off, int(from-f.base))
	}
	if off > len(data) {
		// What lies before the replay start was durable.
		return 0, &CorruptError{File: f.name, Offset: int64(len(data)), LSN: f.base + LSN(len(data)), Err: errShort}
	}
	for off < len(data) {
		lsn := f.base + LSN(off)
		h, err := decodeRecord(data[off:], lsn, seed)
		if err != nil {
			return lsn, r.tail(f, data, off, err, later)
		}
		r.mark[f.stream] = max(r.mark[f.stream], h.mark)
		if lsn >= from {
			if err := r.record(f, data[off:off+h.size], lsn, h); err != nil {
				return 0, err
			}
		}
		off += h.size
	}
	p := f.base + LSN(off)
	if p < f.end {
		return p, r.tail(f, data, off, errShort, later)
	}
	return p, nil
}

// tail decides what a record that cannot be read at off means: nil when it is
// the torn end of the stream.
func (r *replay) tail(f *foundSegment, data []byte, off int, cause error, later []*foundSegment) error {
	p := f.base + LSN(off)
	mark := r.mark[f.stream]
	if mark <= p {
		mark = max(mark, marksIn(data, off+1, f.base, seedOf(f.incarnation), p))
	}
	if mark <= p {
		m, err := r.highestMark(p, later)
		if err != nil {
			return err
		}
		mark = max(mark, m)
	}
	if mark > p {
		return &CorruptError{File: f.name, Offset: int64(off), LSN: p, Err: cause}
	}
	if f.end != 0 || !errors.Is(cause, errKind) {
		paths.Hit(paths.RecoverTornTail)
		r.log.options.Logger.Info("log: torn end", "segment", f.name, "offset", off, "stream", f.stream.String(), "cause", cause)
	}
	return nil
}

// record delivers what one record has to say.
func (r *replay) record(f *foundSegment, p []byte, lsn LSN, h recordHeader) error {
	switch h.kind {
	case recordData:
		return r.deliver(f, p, lsn, recordHeaderBytes, nil)
	case recordGroupPart:
		if h.index == 0 {
			r.parts[h.first] = []partRef{{f, lsn, h.size}}
		} else if known := r.parts[h.first]; len(known) == int(h.index) {
			r.parts[h.first] = append(known, partRef{f, lsn, h.size})
		}
	case recordGroupLast:
		known := r.parts[h.first]
		delete(r.parts, h.first)
		if len(known) != int(h.index) {
			// Without its beginning: abandoned, or begun before the replay.
			return nil
		}
		return r.group(f, p, lsn, known)
	}
	return nil
}

// group delivers the parts of a group, with the stamp of the last one, p.
func (r *replay) group(f *foundSegment, p []byte, lsn LSN, parts []partRef) error {
	var stamp *uint64
	if body := p[recordGroupHeaderBytes:]; !atEnd(body) {
		u, _, err := decodeUpdate(body)
		if err != nil {
			return r.badUpdate(f, lsn+recordGroupHeaderBytes, err)
		}
		stamp = &u.Stamp
	}
	for _, part := range parts {
		p, err := r.readPart(part)
		if err != nil {
			return err
		}
		if err := r.deliver(part.segment, p, part.lsn, recordGroupHeaderBytes, stamp); err != nil {
			return err
		}
	}
	return r.deliver(f, p, lsn, recordGroupHeaderBytes, stamp)
}

// readPart reads a part once more: it was verified when it was met, but memory
// for all parts of a large group is not to be had.
func (r *replay) readPart(part partRef) ([]byte, error) {
	file, err := r.log.fs.OpenFile(r.log.path(part.segment.name), 0, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	off := int64(part.lsn - part.segment.base)
	p, err := readUpTo(file, part.size, off)
	if err != nil {
		return nil, err
	}
	if _, err := decodeRecord(p, part.lsn, seedOf(part.segment.incarnation)); err != nil {
		return nil, &CorruptError{File: part.segment.name, Offset: off, LSN: part.lsn, Err: err}
	}
	return p, nil
}

func (r *replay) badUpdate(f *foundSegment, lsn LSN, err error) error {
	return &CorruptError{File: f.name, Offset: int64(lsn - f.base), LSN: lsn, Err: err}
}

func (r *replay) deliver(f *foundSegment, p []byte, lsn LSN, off int, stamp *uint64) error {
	for !atEnd(p[off:]) {
		u, n, err := decodeUpdate(p[off:])
		if err != nil {
			return r.badUpdate(f, lsn+LSN(off), err)
		}
		if stamp != nil {
			u.Stamp = *stamp
		}
		if err := r.fn(u, Position{LSN: lsn + LSN(off), Size: uint32(n)}); err != nil {
			return err
		}
		off += n
	}
	return nil
}
