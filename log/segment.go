package log

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// A Stream is one of the sequences of records that are written side by side,
// each into segments of its own, so that what dies soon and what lives long do
// not share segments.
type Stream uint8

const (
	Fresh     Stream = iota // new writes
	Survivors               // what cleaning moves

	streams = 2
)

// String returns the name of the stream.
func (s Stream) String() string {
	switch s {
	case Fresh:
		return "fresh"
	case Survivors:
		return "survivors"
	}
	return fmt.Sprintf("stream(%d)", uint8(s))
}

// A segment is one file of the log, or will be one: its file is made when the
// first record of it is written.
type segment struct {
	// Immutable after it is put into the table.
	base        LSN
	incarnation uint64
	seed        seed
	stream      Stream
	recovered   bool // it was there when the log was opened

	// Atomic.
	linked  atomic.Bool   // records may be in it
	end     atomic.Uint64 // LSN behind its last record; 0 while it is open
	guessed atomic.Bool   // end is no more than a bound: the segment that stated it is gone
	live    account       // see Log.Account
	gone    atomic.Bool   // recycled: whatever a read of the file gave is void
	written atomic.Uint64 // LSN up to which records are in the file
	handle  atomic.Pointer[handle]

	opening sync.Mutex // held to open the file for reading

	// Owned by the holder of Log.writing.
	created bool
	mark    LSN // of its header
}

func segmentName(base LSN) string { return fmt.Sprintf("%016x.seg", uint64(base)) }

// parseSegmentName is the inverse of segmentName.
func parseSegmentName(name string) (base LSN, ok bool) {
	digits, ok := strings.CutSuffix(name, ".seg")
	if !ok || len(digits) != 16 {
		return 0, false
	}
	x, err := strconv.ParseUint(digits, 16, 64)
	return LSN(x), err == nil && segmentName(LSN(x)) == name
}

// A table finds the segment of an LSN: an array of chunks of slots, by segment
// number. A slot is nil or a segment; chunks are never taken away while they
// hold one, so a stale directory is as good as the current one for whatever was
// in it when it was loaded.
type table struct {
	directory atomic.Pointer[directory]
	grow      sync.Mutex // held to replace directory
}

const chunkSegments = 256

type chunk struct {
	used  atomic.Int32 // slots that hold a segment, or are about to
	slots [chunkSegments]atomic.Pointer[segment]
}

type directory struct {
	first  uint64 // number of the first chunk
	chunks []*chunk
}

// find returns the segment with this number, or nil.
func (t *table) find(number uint64) *segment {
	if c := t.findChunk(number); c != nil {
		return c.slots[number%chunkSegments].Load()
	}
	return nil
}

func (t *table) findChunk(number uint64) *chunk {
	d := t.directory.Load()
	i := number / chunkSegments
	if d == nil || i < d.first || i-d.first >= uint64(len(d.chunks)) {
		return nil
	}
	return d.chunks[i-d.first]
}

// put sets a slot. Once in chunkSegments segments it takes the mutex to add a
// chunk, for as long as copying the directory takes.
func (t *table) put(number uint64, s *segment) {
	c := t.findChunk(number)
	if c == nil {
		c = t.addChunk(number)
	}
	c.used.Add(1)
	if c.slots[number%chunkSegments].Swap(s) != nil {
		c.used.Add(-1)
	}
}

func (t *table) addChunk(number uint64) *chunk {
	t.grow.Lock()
	defer t.grow.Unlock()
	if c := t.findChunk(number); c != nil {
		return c
	}
	i := number / chunkSegments
	old := t.directory.Load()
	if old == nil {
		old = &directory{first: i}
	}
	d := &directory{first: min(old.first, i)}
	last := i
	if n := uint64(len(old.chunks)); n > 0 {
		last = max(last, old.first+n-1)
	}
	d.chunks = make([]*chunk, last-d.first+1)
	copy(d.chunks[old.first-d.first:], old.chunks)
	c := new(chunk)
	d.chunks[i-d.first] = c
	t.directory.Store(d)
	return c
}

func (t *table) remove(number uint64) {
	if c := t.findChunk(number); c != nil {
		if c.slots[number%chunkSegments].Swap(nil) != nil {
			c.used.Add(-1)
		}
	}
}

// all returns the segments that may hold records, in LSN order.
func (t *table) all() []*segment {
	d := t.directory.Load()
	if d == nil {
		return nil
	}
	var list []*segment
	for _, c := range d.chunks {
		if c == nil || c.used.Load() == 0 {
			continue // of a log that has been long, nearly all are empty
		}
		for i := range c.slots {
			if s := c.slots[i].Load(); s != nil && s.linked.Load() {
				list = append(list, s)
			}
		}
	}
	return list
}

// SegmentInfo describes a segment.
type SegmentInfo struct {
	Base        LSN
	End         LSN // behind its last record, or a bound for it; 0 while it is being written
	Incarnation uint64
	Stream      Stream
	Live        int64 // bytes, by the calls of Account
	Pieces      int64 // updates that those bytes are
}

// Segments returns the segments that may hold records, in LSN order. The
// figures of a segment are read one after the other while others go on. Between
// Open and Replay they are those found, with nothing but Base, Incarnation and
// Stream known.
func (l *Log) Segments() []SegmentInfo {
	if !l.replayed && !l.started.Load() {
		infos := make([]SegmentInfo, 0, len(l.found))
		for _, f := range l.found {
			infos = append(infos, SegmentInfo{Base: f.base, Incarnation: f.incarnation, Stream: f.stream})
		}
		return infos
	}
	all := l.table.all()
	infos := make([]SegmentInfo, 0, len(all))
	for _, s := range all {
		live, pieces := s.live.read()
		infos = append(infos, SegmentInfo{
			Base:        s.base,
			End:         LSN(s.end.Load()),
			Incarnation: s.incarnation,
			Stream:      s.stream,
			Live:        live,
			Pieces:      pieces,
		})
	}
	return infos
}

// resolveEnd finds the end of a segment whose successor was recycled, and with
// it the header that stated the end: behind the last of its records. One that
// cannot be read while others follow it is damage, unless this may be the last segment
// of its incarnation: then a crash can have left that, and it was cut there.
func (l *Log) resolveEnd(s *segment) error {
	if !s.guessed.Load() {
		return nil
	}
	h, err := l.openSegment(s)
	if err != nil {
		return err
	}
	data, err := readUpTo(h.file, int(l.segmentBytes), 0)
	if err = errors.Join(err, h.release()); err != nil {
		return err
	}
	off := headerBytes
	for off < len(data) {
		r, err := decodeRecord(data[off:], s.base+LSN(off), s.seed)
		if err == nil {
			off += r.size
			continue
		}
		lsn := s.base + LSN(off)
		if next := findRecord(data, off+1, s.base, s.seed); next >= 0 && (l.goesOn(s) || marksIn(data, next, s.base, s.seed, lsn) > lsn) {
			return &CorruptError{File: segmentName(s.base), Offset: int64(off), LSN: lsn, Err: err}
		}
		break
	}
	if s.gone.Load() {
		return ErrGone
	}
	s.end.Store(uint64(s.base) + uint64(off))
	s.guessed.Store(false)
	return nil
}

// goesOn reports whether there is a later segment of the stream and the incarnation.
func (l *Log) goesOn(s *segment) bool {
	for _, other := range l.table.all() {
		if other.stream == s.stream && other.incarnation == s.incarnation && other.base > s.base {
			return true
		}
	}
	return false
}

// An account counts updates and their bytes in one word, so that booking one is
// one atomic addition. The bytes take the lower 40 bits; either count may be below
// zero for an instant.
type account struct{ word atomic.Int64 }

const accountBytesBits = 40

func (a *account) add(bytes int64) { a.word.Add(1<<accountBytesBits + bytes) }
func (a *account) sub(bytes int64) { a.word.Add(-(1<<accountBytesBits + bytes)) }

func (a *account) read() (bytes, updates int64) {
	w := a.word.Load()
	bytes = w << (64 - accountBytesBits) >> (64 - accountBytesBits)
	return bytes, (w - bytes) >> accountBytesBits
}

// Account adds the update at p to the live updates and bytes of p's segment, or
// takes it off. A segment that is gone is ignored. It takes no lock.
func (l *Log) Account(p Position, live bool) {
	s := l.segmentAt(p.LSN)
	if s == nil {
		return
	}
	if live {
		s.live.add(int64(p.Size))
	} else {
		s.live.sub(int64(p.Size))
	}
}

func (l *Log) number(lsn LSN) uint64          { return uint64(lsn) / l.segmentBytes }
func (l *Log) segmentAt(lsn LSN) *segment     { return l.table.find(l.number(lsn)) }
func (l *Log) offset(s *segment, x LSN) int64 { return int64(x - s.base) }
