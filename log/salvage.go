package log

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/pulkdb/db/internal/testhooks"
	"github.com/pulkdb/db/internal/vfs"
)

// A Salvager reads the files of a log that may be damaged anywhere, each for
// itself, and changes nothing. It believes what has a good checksum, and needs
// neither the STORE file nor the headers of segments: what these would have said it
// takes from others, or tries. It is for one goroutine.
type Salvager struct {
	// Immutable after OpenSalvager.
	fs           vfs.FS
	dir          string
	lock         io.Closer // nil: there was no file to lock
	storeID      [16]byte
	segmentBytes uint64
	incarnations []uint64 // that are known, newest first
	segments     []*salvagedSegment
	byBase       map[LSN]*salvagedSegment

	damage []Damage
	ends   Marks                   // where what can be read ends
	marks  Marks                   // below them the streams were durable
	torn   Marks                   // where a crash ended the streams; 0: nowhere
	own    [streams]map[uint64]LSN // by incarnation: below them it had made the stream durable
	open   *salvagedSegment
	file   vfs.File // of open
}

// A salvagedSegment is a segment file, whose header may be unreadable.
type salvagedSegment struct {
	name string
	segmentHeader
	headed       bool
	placed       bool     // its stream is known: from its header, or the next one's
	found        bool     // there is something in it
	counts       bool     // what is in it does; settled by CutTorn
	incarnations []uint64 // of its records: the header's, or all that were met
	end          LSN      // as the next one's header has it; 0: not known
	doubt        LSN      // from there on it may have been cut off; 0: nowhere; settled by CutTorn
}

// A Damage is a place where a log is not as it was written.
type Damage struct {
	CorruptError
	End     LSN // behind what may be damaged; LSN is where that begins
	Stream  Stream
	Streams int // 1, or 2 if it is not known which
}

// A Salvaged is an update that was found.
type Salvaged struct {
	Update
	Position    Position
	Incarnation uint64
	// Last is the LSN of the last part of the update's group; zero if there is none.
	// If that does not count, the group does not.
	Last LSN
	// Partial: it is a part of a group of which the last part was not found, or is not
	// known, so that the group may never have counted.
	Partial bool
}

// OpenSalvager opens the log in dir to read what can be read. Errors: ErrLocked
// while somebody writes to it; ErrNotStore if nothing in it looks like a log's;
// ErrVersion; what the file system answers.
func OpenSalvager(fsys vfs.FS, dir string) (_ *Salvager, err error) {
	s := &Salvager{fs: fsys, dir: dir, byBase: map[LSN]*salvagedSegment{}}
	for i := range s.own {
		s.own[i] = map[uint64]LSN{}
	}
	if s.fs == nil {
		s.fs = vfs.OS
	}
	s.lock, err = s.fs.Lock(s.path(lockName), true)
	switch {
	case errors.Is(err, vfs.ErrLocked):
		return nil, fmt.Errorf("%w: %s", ErrLocked, dir)
	case errors.Is(err, fs.ErrNotExist):
		s.lock = nil
	case err != nil:
		return nil, err
	}
	if err := s.scanHeaders(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close gives up the lock.
func (s *Salvager) Close() error {
	err := s.closeFile()
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	return err
}

func (s *Salvager) path(name string) string { return filepath.Join(s.dir, name) }

// StoreID returns the store's number, as most files have it.
func (s *Salvager) StoreID() [16]byte { return s.storeID }

// Damage returns what was found wrong so far.
func (s *Salvager) Damage() []Damage { return s.damage }

// Ends returns, after Scan, where what can be read of each stream ends, and Marks
// below what it was durable.
func (s *Salvager) Ends() (ends, marks Marks) { return s.ends, s.marks }

// byStart is the LSN of the start of the segment that lsn is in.
func (s *Salvager) byStart(lsn LSN) LSN { return LSN(uint64(lsn) / s.segmentBytes * s.segmentBytes) }

func (s *Salvager) note(seg *salvagedSegment, name string, off int64, lsn, end LSN, err error) {
	d := Damage{CorruptError: CorruptError{File: name, Offset: off, LSN: lsn, Err: err}, End: end, Streams: streams}
	if seg != nil && seg.placed {
		d.Stream, d.Streams = seg.stream, 1
	}
	s.damage = append(s.damage, d)
}

// scanHeaders reads the headers of all files, and decides which store's they are
// and how long its segments.
func (s *Salvager) scanHeaders() error {
	names, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return err
	}
	id, idErr := s.readIdentity()
	if errors.Is(idErr, ErrVersion) {
		return idErr
	}
	var found []*salvagedSegment
	type kin struct {
		storeID      [16]byte
		segmentBytes uint64
	}
	votes := map[kin]int{}
	for _, name := range names {
		base, ok := parseSegmentName(name)
		if !ok {
			continue
		}
		p, err := s.readStart(name, headerBytes)
		if err != nil {
			s.note(nil, name, 0, base, base+segmentBytesMax, err)
			continue
		}
		seg := &salvagedSegment{name: name}
		h, err := decodeSegmentHeader(p)
		switch {
		case errors.Is(err, ErrVersion):
			return fmt.Errorf("%s: %w", name, err)
		case err == nil:
			seg.segmentHeader, seg.headed, seg.placed = h, true, true
			votes[kin{h.storeID, h.segmentBytes}]++
		default:
			seg.base = base
		}
		found = append(found, seg)
	}
	if idErr == nil {
		votes[kin{id.storeID, id.segmentBytes}] += 2
		s.know(id.incarnation)
	} else {
		s.note(nil, identityName, 0, 0, 0, idErr)
	}
	best := 0
	for k, n := range votes {
		if n > best && k.segmentBytes >= segmentBytesMin && k.segmentBytes <= segmentBytesMax {
			best, s.storeID, s.segmentBytes = n, k.storeID, k.segmentBytes
		}
	}
	if best == 0 {
		return fmt.Errorf("%w: no readable file of a store in %s", ErrNotStore, s.dir)
	}
	for _, seg := range found {
		s.adopt(seg, found)
	}
	slices.SortFunc(s.segments, func(a, b *salvagedSegment) int { return cmp.Compare(a.base, b.base) })
	s.chain()
	return nil
}

// adopt takes the segment for one of the store's if it is. The header decides what
// it is, not the name, unless the file was renamed for reuse: then there is none
// of that name, and what is in it had served its time.
func (s *Salvager) adopt(seg *salvagedSegment, all []*salvagedSegment) {
	base, _ := parseSegmentName(seg.name)
	switch {
	case !seg.headed:
		seg.segmentBytes = s.segmentBytes
	case seg.storeID != s.storeID || seg.segmentBytes != s.segmentBytes || uint64(seg.base)%s.segmentBytes != 0:
		s.note(nil, seg.name, 0, base, base+LSN(s.segmentBytes), errForeign)
		return
	case seg.base != base:
		if !slices.ContainsFunc(all, func(x *salvagedSegment) bool { return x.name == segmentName(seg.base) }) {
			return
		}
		s.note(seg, seg.name, 0, base, base, fmt.Errorf("holds segment %v", seg.base))
	}
	if old := s.byBase[seg.base]; old != nil {
		// Two files of one segment: the one of its name, or with a header.
		if !seg.headed || old.headed && old.name == segmentName(old.base) {
			return
		}
		s.segments = slices.DeleteFunc(s.segments, func(x *salvagedSegment) bool { return x == old })
	}
	if seg.headed {
		seg.incarnations = []uint64{seg.incarnation}
		s.know(seg.incarnation)
	}
	s.byBase[seg.base] = seg
	s.segments = append(s.segments, seg)
}

// know adds an incarnation to those that are known, newest first.
func (s *Salvager) know(incarnation uint64) {
	i, found := slices.BinarySearchFunc(s.incarnations, incarnation, func(a, b uint64) int { return cmp.Compare(b, a) })
	if !found {
		s.incarnations = slices.Insert(s.incarnations, i, incarnation)
	}
}

// chain gives the segments the ends that headers state: what lies behind them an
// earlier recovery has cut off.
func (s *Salvager) chain() {
	for _, seg := range s.segments {
		if !seg.headed {
			continue
		}
		s.raise(seg, seg.incarnation, seg.mark)
		if prev := s.byBase[seg.prevBase]; prev != nil && seg.prevBase != 0 && seg.prevEnd > seg.prevBase {
			prev.end, prev.stream, prev.placed, prev.counts = seg.prevEnd, seg.stream, true, true
		}
	}
}

// Missing returns the segments that are not there: those of the given bases, and
// those of which a header says that they reach above the given LSNs. A segment that
// was reused is among the latter if the LSNs are lower than when that was decided.
func (s *Salvager) Missing(needed map[LSN]bool, above Marks) (missing []Damage) {
	told := map[LSN]bool{}
	for _, seg := range s.segments {
		base := seg.prevBase
		if !seg.headed || base == 0 || s.byBase[base] != nil || told[base] || s.isTorn(seg.stream, base) || !needed[base] && seg.prevEnd <= above[seg.stream] {
			continue
		}
		told[base] = true
		missing = append(missing, Damage{CorruptError{File: segmentName(base), LSN: base, Err: errMissing}, seg.prevEnd, seg.stream, 1})
	}
	for base := range needed {
		if s.byBase[base] == nil && !told[base] {
			missing = append(missing, Damage{CorruptError{File: segmentName(base), LSN: base, Err: errMissing}, base + LSN(s.segmentBytes), 0, streams})
		}
	}
	slices.SortFunc(missing, func(a, b Damage) int { return cmp.Compare(a.LSN, b.LSN) })
	return missing
}

var (
	errMissing = errors.New("segment is missing")
	errHeader  = errors.New("header cannot be read")
)

func (s *Salvager) readIdentity() (identity, error) {
	p, err := s.readStart(identityName, identityBytes)
	if err != nil {
		return identity{}, err
	}
	return decodeIdentity(p)
}

func (s *Salvager) readStart(name string, n int) ([]byte, error) {
	file, err := s.fs.OpenFile(s.path(name), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readUpTo(file, n, 0)
}

// Scan calls fn with every update that can be trusted, segment by segment in LSN
// order; those of groups when the group ends. Payload is nil: Read gives it. It
// holds one segment in memory, and of groups that are not complete the headers of
// their updates. An error of fn ends it and is returned.
func (s *Salvager) Scan(fn func(Salvaged) error) error {
	groups := map[LSN][]Salvaged{}
	var data []byte
	for i, seg := range s.segments {
		if testhooks.SalvageSkipSegment.On() && i%4 == 1 {
			continue
		}
		file, err := s.fs.OpenFile(s.path(seg.name), os.O_RDONLY, 0)
		if err != nil {
			s.note(seg, seg.name, 0, seg.base, seg.base+LSN(s.segmentBytes), err)
			continue
		}
		size, err := file.Size()
		n := min(uint64(size), s.segmentBytes)
		if seg.end != 0 {
			n = min(n, uint64(seg.end-seg.base))
		}
		if err == nil {
			data = slices.Grow(data[:0], int(n))[:n]
			k, rerr := file.ReadAt(data, 0)
			if data = data[:k]; uint64(k) < n {
				err = rerr
			}
		}
		if err = errors.Join(err, file.Close()); err != nil {
			s.note(seg, seg.name, int64(len(data)), seg.base+LSN(len(data)), seg.base+LSN(s.segmentBytes), err)
		}
		x := segmentScan{s: s, segment: seg, data: data, fn: fn, groups: groups, budget: scanWork * len(data)}
		if err := x.run(); err != nil {
			return err
		}
	}
	for _, parts := range groups {
		for _, u := range parts {
			u.Partial = true
			if err := fn(u); err != nil {
				return err
			}
		}
	}
	return nil
}

// Read returns the update at a position that Scan gave, read into buffer, which is
// returned, grown if need be; Payload aliases it. Errors: *CorruptError, the file system's.
func (s *Salvager) Read(p Position, buffer []byte) (Update, []byte, error) {
	base := s.byStart(p.LSN)
	seg := s.byBase[base]
	if seg == nil {
		return Update{}, buffer, &CorruptError{File: segmentName(base), LSN: p.LSN, Err: errMissing}
	}
	if s.open != seg {
		if err := s.closeFile(); err != nil {
			return Update{}, buffer, err
		}
		file, err := s.fs.OpenFile(s.path(seg.name), os.O_RDONLY, 0)
		if err != nil {
			return Update{}, buffer, err
		}
		s.open, s.file = seg, file
	}
	off := int64(p.LSN - base)
	buffer = slices.Grow(buffer[:0], int(p.Size))[:p.Size]
	if n, err := s.file.ReadAt(buffer, off); n < len(buffer) {
		return Update{}, buffer, &CorruptError{File: seg.name, Offset: off, LSN: p.LSN, Err: errors.Join(errShort, err)}
	}
	err := errChecksum
	for _, incarnation := range seg.incarnations {
		u, verr := verifyUpdate(buffer, p.LSN, seedOf(incarnation))
		if err = verr; err == nil {
			return u, buffer, nil
		}
	}
	return Update{}, buffer, &CorruptError{File: seg.name, Offset: off, LSN: p.LSN, Err: err}
}

func (s *Salvager) closeFile() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.open, s.file = nil, nil
	return err
}
