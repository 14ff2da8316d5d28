package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/pulkdb/db/log"
)

// A file is a header, frames of kind slots, one frame of kind footer, and a
// trailer that says where the footer is.

const (
	formatVersion = 2
	knownFeatures = uint64(0)

	// Slots are gathered into chunks of about this many bytes.
	chunkBytes = 128 << 10

	maxPositions   = 1 << 16
	maxSlotBytes   = 64 + maxPositions*15 // 10 for an LSN, 5 for a size
	maxChunkBytes  = 2 << 20              // more than chunkBytes + maxSlotBytes
	maxFooterBytes = 64 << 20
)

var (
	magic      = [8]byte{'p', 'u', 'l', 'k', 's', 'n', 'p', '\n'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// What can be wrong with bytes; always within a *log.CorruptError.
var (
	errMagic    = errors.New("wrong magic number")
	errChecksum = errors.New("wrong checksum")
	errShort    = errors.New("cut short")
	errValue    = errors.New("value out of range")
	errStore    = errors.New("belongs to another store")
	errSequence = errors.New("sequence is not that of the file's name")
	errTail     = errors.New("footer is not where the trailer says")
	errParent   = errors.New("the snapshot that this one builds on is another")
	errFrame    = errors.New("invalid frame")
	errCount    = errors.New("number of slots is not what the footer says")
)

// The file header. Integers are little-endian.
//
//	Offset  Size  Field        Meaning
//	     0     8  magic        "pulksnp\n"
//	     8     4  version      of the format: 2
//	    12     4  size         bytes of the header: 128
//	    16    16  store id     of the STORE file
//	    32     8  incarnation  of the Open that wrote it
//	    40     8  required     feature bits: all must be known
//	    48     8  optional     feature bits: may be unknown
//	    56     4  codec        1: frames may be compressed with zstd
//	    60     4  key          0: not encrypted
//	    64     8  sequence     as in the file's name
//	    72     8  parent       sequence of the snapshot that this one is a difference to
//	    80     8  parent       its incarnation
//	    88     4  parent       its checksum, that of its footer; all three 0: a base
//	    92    32  zero
//	   124     4  crc          CRC-32C of bytes 0 to 123; all other checksums go on from it
const headerBytes = 128

func appendHeader(dst []byte, id Identity) []byte {
	var p [headerBytes]byte
	le := binary.LittleEndian
	copy(p[0:], magic[:])
	le.PutUint32(p[8:], formatVersion)
	le.PutUint32(p[12:], headerBytes)
	copy(p[16:], id.StoreID[:])
	le.PutUint64(p[32:], id.Incarnation)
	le.PutUint32(p[56:], codecZstd)
	le.PutUint64(p[64:], id.Sequence)
	le.PutUint64(p[72:], id.Parent.Sequence)
	le.PutUint64(p[80:], id.Parent.Incarnation)
	le.PutUint32(p[88:], id.Parent.Checksum)
	le.PutUint32(p[124:], crc32.Checksum(p[:124], castagnoli))
	return append(dst, p[:]...)
}

// decodeHeader checks magic, checksum, then version, in this order: a flipped
// bit in the version is damage, and a later version has a good checksum.
func decodeHeader(p []byte) (id Identity, seed uint32, err error) {
	if len(p) < headerBytes {
		return id, 0, errShort
	}
	le := binary.LittleEndian
	if [8]byte(p) != magic {
		return id, 0, errMagic
	}
	seed = crc32.Checksum(p[:124], castagnoli)
	if le.Uint32(p[124:]) != seed {
		return id, 0, errChecksum
	}
	if v := le.Uint32(p[8:]); v != formatVersion {
		return id, 0, fmt.Errorf("%w: snapshot format version %d", log.ErrVersion, v)
	}
	if unknown := le.Uint64(p[40:]) &^ knownFeatures; unknown != 0 {
		return id, 0, fmt.Errorf("%w: snapshot requires features %#x", log.ErrVersion, unknown)
	}
	if codec, key := le.Uint32(p[56:]), le.Uint32(p[60:]); codec != codecZstd || key != 0 {
		return id, 0, fmt.Errorf("%w: snapshot codec %d, key %d", log.ErrVersion, codec, key)
	}
	id = Identity{
		StoreID:     [16]byte(p[16:32]),
		Incarnation: le.Uint64(p[32:]),
		Sequence:    le.Uint64(p[64:]),
		Parent:      Link{le.Uint64(p[72:]), le.Uint64(p[80:]), le.Uint32(p[88:])},
	}
	return id, seed, nil
}

// Kinds and codecs of frames.
const (
	kindSlots  = 1
	kindFooter = 2

	codecNone = 0
	codecZstd = 1
)

// A frame is a header and a payload.
//
//	Offset  Size  Field      Meaning
//	     0     4  crc        CRC-32C of bytes 4 to 39 and the payload, going on from the file header's
//	     4     1  kind       1 slots, 2 footer
//	     5     1  codec      of the payload: 0 as it is, 1 zstd
//	     6     2  zero
//	     8     4  stored     bytes of the payload
//	    12     4  raw        bytes of the payload when decompressed; at most 2 MiB, footer 64 MiB
//	    16     4  index      counts the frames of the file, from 0
//	    20     4  count      slots in the payload; 0 in a footer
//	    24     8  first PID  of the payload; 0 in a footer
//	    32     8  last PID   of the payload; 0 in a footer
//	    40     .  payload
const frameBytes = 40

type frame struct {
	kind, codec uint8
	stored, raw uint32
	index       uint32
	count       uint32
	first, last log.PID
}

// putFrame writes f's header into p, which has the payload behind it.
func putFrame(p []byte, f frame, seed uint32) {
	le := binary.LittleEndian
	clear(p[:frameBytes])
	p[4], p[5] = f.kind, f.codec
	le.PutUint32(p[8:], f.stored)
	le.PutUint32(p[12:], f.raw)
	le.PutUint32(p[16:], f.index)
	le.PutUint32(p[20:], f.count)
	le.PutUint64(p[24:], uint64(f.first))
	le.PutUint64(p[32:], uint64(f.last))
	le.PutUint32(p, crc32.Update(seed, castagnoli, p[4:frameBytes+int(f.stored)]))
}

// decodeFrame reads a frame's header and checks its sizes. The checksum needs
// the payload: see checkFrame.
// REQUIRES: len(p) >= frameBytes.
func decodeFrame(p []byte) (frame, error) {
	le := binary.LittleEndian
	f := frame{
		kind: p[4], codec: p[5],
		stored: le.Uint32(p[8:]), raw: le.Uint32(p[12:]),
		index: le.Uint32(p[16:]), count: le.Uint32(p[20:]),
		first: log.PID(le.Uint64(p[24:])), last: log.PID(le.Uint64(p[32:])),
	}
	limit := uint32(maxChunkBytes)
	if f.kind == kindFooter {
		limit = maxFooterBytes
	}
	ok := f.kind == kindSlots || f.kind == kindFooter
	ok = ok && (f.codec == codecZstd || f.codec == codecNone && f.stored == f.raw)
	ok = ok && f.raw <= limit && f.stored <= f.raw && f.count <= f.raw && f.first <= f.last
	if !ok {
		return f, errFrame
	}
	return f, nil
}

// checkFrame checks the checksum of a frame: header and payload.
func checkFrame(p []byte, seed uint32) error {
	if binary.LittleEndian.Uint32(p) != crc32.Update(seed, castagnoli, p[4:]) {
		return errChecksum
	}
	return nil
}

// The trailer. A reader finds the footer by it without reading the slots.
//
//	Offset  Size  Field   Meaning
//	     0     8  footer  offset in the file of the footer's frame, which ends where the trailer begins
//	     8     4  zero
//	    12     4  crc     CRC-32C of bytes 0 to 11, going on from the file header's
const trailerBytes = 16

func appendTrailer(dst []byte, footer int64, seed uint32) []byte {
	var p [trailerBytes]byte
	le := binary.LittleEndian
	le.PutUint64(p[:], uint64(footer))
	le.PutUint32(p[12:], crc32.Update(seed, castagnoli, p[:12]))
	return append(dst, p[:]...)
}

// decodeTrailer returns the offset of the footer's frame.
// REQUIRES: len(p) >= trailerBytes.
func decodeTrailer(p []byte, seed uint32) (footer int64, err error) {
	le := binary.LittleEndian
	if le.Uint32(p[12:]) != crc32.Update(seed, castagnoli, p[:12]) {
		return 0, errChecksum
	}
	offset := le.Uint64(p)
	if offset > 1<<62 || le.Uint32(p[8:]) != 0 {
		return 0, errTail
	}
	return int64(offset), nil
}

// A slot, within a chunk. u is an unsigned varint, z a zigzag varint of a
// difference modulo 2^64.
//
//	Size  Field      Meaning
//	   u  PID        less that of the slot before; the first less the frame's first PID: 0
//	   1  tag        bits 0-1 state; bit 2: flags follow; bits 4-7 number of positions, 15: it follows
//	   u  version
//	   z  stamp      less that of the slot before
//	   1  flags      if the tag says so
//	   u  positions  if the tag says so
//	      per position:
//	   z  LSN        less that of the position before; the first less the first of the last slot that had any
//	   u  size
//
// "Before" the first slot of a chunk are zeros. Example, fixed by
// TestSlotExample: the chunk with
//
//	5 used v3 stamp 7 flags 0x0 [0x1000+100 0x2000+50]
//	7 free v9 stamp 6 flags 0x1 []
//
// and first PID 5 is
//
//	00 21 03 0e 80 40 64 80 40 32
//	02 06 09 01 01
type slotCoder struct {
	pid   log.PID
	stamp uint64
	lsn   log.LSN // first position of the last slot that had any
}

const (
	tagState      = 0x03
	tagFlags      = 0x04
	tagUnused     = 0x08
	tagCountShift = 4
	tagCountMany  = 15
)

func (c *slotCoder) appendSlot(dst []byte, s *Slot) []byte {
	dst = binary.AppendUvarint(dst, uint64(s.PID-c.pid))
	tag := byte(s.State) | byte(min(len(s.Positions), tagCountMany))<<tagCountShift
	if s.Flags != 0 {
		tag |= tagFlags
	}
	dst = append(dst, tag)
	dst = binary.AppendUvarint(dst, s.Version)
	dst = binary.AppendVarint(dst, int64(s.Stamp-c.stamp))
	if s.Flags != 0 {
		dst = append(dst, s.Flags)
	}
	if len(s.Positions) >= tagCountMany {
		dst = binary.AppendUvarint(dst, uint64(len(s.Positions)))
	}
	c.pid, c.stamp = s.PID, s.Stamp
	last := c.lsn
	for i, p := range s.Positions {
		dst = binary.AppendVarint(dst, int64(p.LSN-last))
		dst = binary.AppendUvarint(dst, uint64(p.Size))
		last = p.LSN
		if i == 0 {
			c.lsn = p.LSN
		}
	}
	return dst
}

// decodeSlot reads the slot at the start of p into s, whose Positions it
// overwrites, and returns the number of bytes it took.
func (c *slotCoder) decodeSlot(p []byte, s *Slot) (int, error) {
	d := decoder{p: p}
	s.PID = c.pid + log.PID(d.uvarint())
	tag := d.byte()
	s.State = State(tag & tagState)
	s.Version = d.uvarint()
	s.Stamp = c.stamp + uint64(d.varint())
	s.Flags = 0
	if tag&tagFlags != 0 {
		s.Flags = d.byte()
	}
	count := uint64(tag >> tagCountShift)
	if count == tagCountMany {
		count = d.uvarint()
	}
	bad := s.PID < c.pid || s.State != Used && s.State != Free || tag&tagUnused != 0 ||
		tag&tagFlags != 0 && s.Flags == 0 || s.State == Used && count == 0 ||
		tag>>tagCountShift == tagCountMany && count < tagCountMany
	if d.bad || bad || count > maxPositions {
		return 0, errValue
	}
	c.pid, c.stamp = s.PID, s.Stamp
	s.Positions = s.Positions[:0]
	last := c.lsn
	for i := range count {
		last += log.LSN(d.varint())
		size := d.uvarint()
		if d.bad || size > 1<<32-1 {
			return 0, errValue
		}
		s.Positions = append(s.Positions, log.Position{LSN: last, Size: uint32(size)})
		if i == 0 {
			c.lsn = last
		}
	}
	return d.n, nil
}

// The footer. u is an unsigned varint.
//
//	Size  Field         Meaning
//	   u  frames        before this one
//	   u  slots         in all of them
//	   u  replay start, of the Fresh stream
//	   u  replay start, of the Survivors stream
//	   u  durable mark, of the Fresh stream
//	   u  durable mark, of the Survivors stream
//	   u  max PID
//	   u  clock
//	   u  recoveries    number of them; per recovery:
//	   u  tree
//	   u  generation
//	   u  PID
//	   u  state size
//	   .  state
//	   u  segments      number of them; per segment, in any order:
//	   u  base
//	   u  incarnation
type footer struct {
	frames, slots uint64
	header        Header // without Identity
}

func appendFooter(dst []byte, f footer) []byte {
	h := &f.header
	for _, v := range []uint64{f.frames, f.slots, uint64(h.ReplayStart[log.Fresh]),
		uint64(h.ReplayStart[log.Survivors]), uint64(h.DurableMark[log.Fresh]), uint64(h.DurableMark[log.Survivors]),
		uint64(h.MaxPID), h.Clock, uint64(len(h.Recovery))} {
		dst = binary.AppendUvarint(dst, v)
	}
	for _, r := range h.Recovery {
		for _, v := range []uint64{r.Tree, r.Generation, uint64(r.PID), uint64(len(r.State))} {
			dst = binary.AppendUvarint(dst, v)
		}
		dst = append(dst, r.State...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(h.Segments)))
	for _, s := range h.Segments {
		dst = binary.AppendUvarint(dst, uint64(s.Base))
		dst = binary.AppendUvarint(dst, s.Incarnation)
	}
	return dst
}

func decodeFooter(p []byte) (footer, error) {
	d := decoder{p: p}
	f := footer{frames: d.uvarint(), slots: d.uvarint()}
	h := &f.header
	h.ReplayStart = log.Marks{log.LSN(d.uvarint()), log.LSN(d.uvarint())}
	h.DurableMark = log.Marks{log.LSN(d.uvarint()), log.LSN(d.uvarint())}
	h.MaxPID, h.Clock = log.PID(d.uvarint()), d.uvarint()
	for range d.count(4) {
		r := Recovery{Tree: d.uvarint(), Generation: d.uvarint(), PID: log.PID(d.uvarint())}
		r.State = d.bytes(d.count(1))
		h.Recovery = append(h.Recovery, r)
	}
	for range d.count(2) {
		h.Segments = append(h.Segments, SegmentRef{log.LSN(d.uvarint()), d.uvarint()})
	}
	if d.bad || d.n != len(p) {
		return footer{}, errValue
	}
	return f, nil
}

// A decoder reads p from the front. Once something is wrong it is bad and reads
// zeros.
type decoder struct {
	p   []byte
	n   int // bytes read
	bad bool
}

func (d *decoder) uvarint() uint64 {
	if d.n < len(d.p) && d.p[d.n] < 0x80 {
		d.n++
		return uint64(d.p[d.n-1])
	}
	v, n := binary.Uvarint(d.p[d.n:])
	// A last byte of 0 would be a second encoding of the same number.
	if n <= 0 || n > 1 && d.p[d.n+n-1] == 0 {
		d.fail()
		return 0
	}
	d.n += n
	return v
}

func (d *decoder) varint() int64 {
	v := d.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

func (d *decoder) byte() byte {
	if d.n >= len(d.p) {
		d.fail()
		return 0
	}
	d.n++
	return d.p[d.n-1]
}

// count reads the number of items that take at least itemBytes each, so that it
// is bounded by what is there (S5).
func (d *decoder) count(itemBytes int) int {
	v := d.uvarint()
	if v > uint64((len(d.p)-d.n)/itemBytes) {
		d.fail()
		return 0
	}
	return int(v)
}

// bytes returns a copy of the next n bytes; nil if there are none.
func (d *decoder) bytes(n int) []byte {
	if d.bad || n == 0 {
		return nil
	}
	d.n += n
	return append([]byte(nil), d.p[d.n-n:d.n]...)
}

func (d *decoder) fail() {
	d.bad = true
	d.n = len(d.p)
}
