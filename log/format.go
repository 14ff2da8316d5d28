package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/bits"

	"github.com/pulkdb/db/internal/testhooks"
)

// A Kind says what an update does to its page. The log stores it and gives it
// no meaning.
type Kind uint8

// The kinds of update. The numbers are stored.
const (
	KindAllocate    Kind = 1 // the page exists, with this base
	KindReplace     Kind = 2 // a new base with new contents
	KindAppend      Kind = 3 // a delta
	KindConsolidate Kind = 4 // a base of the same contents: nothing changed for readers
	KindFree        Kind = 5 // the page is gone

	kindLast       = KindFree
	kindCompressed = 0x80 // set in the stored kind: Payload is compressed
)

// String returns the name of the kind in lower case.
func (k Kind) String() string {
	switch k {
	case KindAllocate:
		return "allocate"
	case KindReplace:
		return "replace"
	case KindAppend:
		return "append"
	case KindConsolidate:
		return "consolidate"
	case KindFree:
		return "free"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// An Update is what a record says of one page.
type Update struct {
	PID        PID
	Version    uint64 // the page's version after it
	Stamp      uint64 // given at Complete; zero in all parts of a group but the last when read alone
	Kind       Kind
	Compressed bool // Payload is compressed; the log neither does nor undoes it
	Payload    []byte
}

// String describes the update without its payload.
func (u Update) String() string {
	return fmt.Sprintf("%v pid %d version %d stamp %d, %d bytes", u.Kind, u.PID, u.Version, u.Stamp, len(u.Payload))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// mix64 is the finalizer of splitmix64, a bijection.
func mix64(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// A seed is what a segment's incarnation adds to every checksum in it (L4).
type seed uint64

func seedOf(incarnation uint64) seed { return seed(mix64(incarnation + 0x9e3779b97f4a7c15)) }

// checksum is the CRC-32C of p, begun with a hash of incarnation and LSN
// instead of zero: the same bytes at another LSN or of another incarnation do
// not verify.
func (s seed) checksum(lsn LSN, p []byte) uint32 {
	return crc32.Update(uint32(mix64(uint64(s)^uint64(lsn))), castagnoli, p)
}

// An update is a header and the payload. Integers are little-endian.
//
//	Offset  Size  Field    Meaning
//	     0     4  crc      checksum of all that follows, of the update's LSN
//	     4     1  kind     see Kind; bit 7: the payload is compressed
//	     5     8  stamp    see Update
//	    13   1-5  length   uvarint: bytes of payload
//	       1-10  pid      uvarint
//	       1-10  version  uvarint
//	             payload
const (
	updateOffCRC    = 0
	updateOffKind   = 4
	updateOffStamp  = 5
	updateOffLength = 13
)

func uvarintSize(x uint64) int { return (bits.Len64(x|1) + 6) / 7 }

// UpdateSize returns the bytes that an update takes in a record.
func UpdateSize(pid PID, version uint64, payload int) int {
	return updateOffLength + uvarintSize(uint64(payload)) + uvarintSize(uint64(pid)) + uvarintSize(version) + payload
}

// putUpdate writes u to dst, but for stamp and checksum, and returns its size.
// REQUIRES: dst has room for UpdateSize.
func putUpdate(dst []byte, u Update) int {
	kind := byte(u.Kind)
	if u.Compressed {
		kind |= kindCompressed
	}
	dst[updateOffKind] = kind
	n := updateOffLength
	n += binary.PutUvarint(dst[n:], uint64(len(u.Payload)))
	n += binary.PutUvarint(dst[n:], uint64(u.PID))
	n += binary.PutUvarint(dst[n:], u.Version)
	return n + copy(dst[n:], u.Payload)
}

// stampUpdate fills in what putUpdate left out; p is the whole update.
func stampUpdate(p []byte, lsn LSN, s seed, stamp uint64) {
	binary.LittleEndian.PutUint64(p[updateOffStamp:], stamp)
	binary.LittleEndian.PutUint32(p[updateOffCRC:], s.checksum(lsn, p[updateOffKind:]))
}

var (
	errShort    = errors.New("cut short")
	errChecksum = errors.New("wrong checksum")
	errKind     = errors.New("unknown kind")
	errLayout   = errors.New("fields do not fit")
)

// decodeUpdate reads the update at the start of p without looking at its
// checksum and returns its size. Payload aliases p.
func decodeUpdate(p []byte) (Update, int, error) {
	if len(p) <= updateOffLength {
		return Update{}, 0, errShort
	}
	u := Update{
		Kind:       Kind(p[updateOffKind] &^ kindCompressed),
		Compressed: p[updateOffKind]&kindCompressed != 0,
		Stamp:      binary.LittleEndian.Uint64(p[updateOffStamp:]),
	}
	if u.Kind == 0 || u.Kind > kindLast {
		return Update{}, 0, errKind
	}
	n := updateOffLength
	length, k := binary.Uvarint(p[n:])
	if k <= 0 || length > math.MaxInt32 {
		return Update{}, 0, errLayout
	}
	n += k
	pid, k := binary.Uvarint(p[n:])
	if k <= 0 {
		return Update{}, 0, errLayout
	}
	n += k
	version, k := binary.Uvarint(p[n:])
	if k <= 0 {
		return Update{}, 0, errLayout
	}
	n += k
	if uint64(len(p)-n) < length {
		return Update{}, 0, errShort
	}
	u.PID, u.Version = PID(pid), version
	end := n + int(length)
	u.Payload = p[n:end:end]
	return u, end, nil
}

// verifyUpdate decodes p, which is one whole update, and checks its checksum.
func verifyUpdate(p []byte, lsn LSN, s seed) (Update, error) {
	if len(p) <= updateOffLength {
		return Update{}, errShort
	}
	if binary.LittleEndian.Uint32(p[updateOffCRC:]) != s.checksum(lsn, p[updateOffKind:]) && !testhooks.AcceptTornUpdate.On() {
		return Update{}, errChecksum
	}
	u, n, err := decodeUpdate(p)
	if err == nil && n != len(p) {
		err = errLayout
	}
	return u, err
}

// A recordKind says what a record is. The numbers are stored.
type recordKind uint8

const (
	recordData      recordKind = 1
	recordAborted   recordKind = 2 // its body means nothing
	recordGroupPart recordKind = 3 // counts only with the last of its group
	recordGroupLast recordKind = 4
	recordMark      recordKind = 5 // has no body: only the durable mark
)

func (k recordKind) inGroup() bool { return k == recordGroupPart || k == recordGroupLast }

// A record is a header and a body of updates. Integers are little-endian.
//
//	Offset  Size  Field    Meaning
//	     0     4  crc      checksum of all that follows, of the record's LSN
//	     4     4  size     bytes of the record, header included
//	     8     1  kind     see recordKind; 0 is unwritten space
//	     9     4  mark     the stream was durable up to the record's LSN less
//	                       this many bytes; 2^32-1: no statement
//	    13     8  first    group parts only: LSN of the group's first part
//	    21     4  index    group parts only: which part this is, from 0
//	             updates  one after the other; a zero where a kind should
//	                       stand, or too few bytes, end them
//
// Example: TestRecordExample fixes the bytes of a record at LSN 0x1080,
// incarnation 1, durable up to 0x1040, with one update, {append pid 3 version 2
// stamp 9 "hi"}.
const (
	recordOffCRC   = 0
	recordOffSize  = 4
	recordOffKind  = 8
	recordOffMark  = 9
	recordOffFirst = 13
	recordOffIndex = 21

	recordHeaderBytes      = 13
	recordGroupHeaderBytes = 25

	markUnknown = math.MaxUint32
)

// A recordHeader is a decoded record without its updates.
type recordHeader struct {
	size  int
	kind  recordKind
	mark  LSN // zero: no statement
	first LSN
	index uint32
}

func (h recordHeader) headerBytes() int {
	if h.kind.inGroup() {
		return recordGroupHeaderBytes
	}
	return recordHeaderBytes
}

// sealRecord fills in the header of the record p, whose body is complete.
func sealRecord(p []byte, lsn LSN, s seed, kind recordKind, durable, first LSN, index uint32) {
	binary.LittleEndian.PutUint32(p[recordOffSize:], uint32(len(p)))
	p[recordOffKind] = byte(kind)
	mark := uint32(markUnknown)
	if durable != 0 && durable <= lsn && lsn-durable < markUnknown {
		mark = uint32(lsn - durable)
	}
	binary.LittleEndian.PutUint32(p[recordOffMark:], mark)
	if kind.inGroup() {
		binary.LittleEndian.PutUint64(p[recordOffFirst:], uint64(first))
		binary.LittleEndian.PutUint32(p[recordOffIndex:], index)
	}
	binary.LittleEndian.PutUint32(p[recordOffCRC:], s.checksum(lsn, p[recordOffSize:]))
}

// decodeRecord reads and verifies the record at the start of p, where LSN is lsn.
func decodeRecord(p []byte, lsn LSN, s seed) (recordHeader, error) {
	if len(p) < recordHeaderBytes {
		return recordHeader{}, errShort
	}
	h := recordHeader{kind: recordKind(p[recordOffKind])}
	if h.kind == 0 || h.kind > recordMark {
		return recordHeader{}, errKind
	}
	size := binary.LittleEndian.Uint32(p[recordOffSize:])
	if uint64(size) > uint64(len(p)) || int(size) < h.headerBytes() {
		return recordHeader{}, errShort
	}
	h.size = int(size)
	p = p[:h.size]
	if binary.LittleEndian.Uint32(p[recordOffCRC:]) != s.checksum(lsn, p[recordOffSize:]) && !testhooks.AcceptTornRecord.On() {
		return recordHeader{}, errChecksum
	}
	if mark := binary.LittleEndian.Uint32(p[recordOffMark:]); mark != markUnknown && LSN(mark) <= lsn {
		h.mark = lsn - LSN(mark)
	}
	if h.kind.inGroup() {
		h.first = LSN(binary.LittleEndian.Uint64(p[recordOffFirst:]))
		h.index = binary.LittleEndian.Uint32(p[recordOffIndex:])
	}
	return h, nil
}

// atEnd reports whether no update follows at the start of body.
func atEnd(body []byte) bool { return len(body) <= updateOffLength || body[updateOffKind] == 0 }
