package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

const (
	formatVersion = 1

	// What this program can read. An unknown required feature is ErrVersion,
	// an unknown optional one is ignored.
	knownFeatures = uint64(0)
)

var (
	segmentMagic = [8]byte{'p', 'u', 'l', 'k', 's', 'e', 'g', '\n'}
	storeMagic   = [8]byte{'p', 'u', 'l', 'k', 's', 't', 'o', '\n'}
)

// A segment begins with a header. Integers are little-endian. It is smaller
// than a sector, so that it is written whole or not at all.
//
//	Offset  Size  Field        Meaning
//	     0     8  magic        "pulkseg\n"
//	     8     4  version      of the format: 1
//	    12     4  size         bytes of the header: 128
//	    16    16  store id     of the STORE file beside it
//	    32     8  incarnation  of all checksums in the segment
//	    40     8  required     feature bits: all must be known
//	    48     8  optional     feature bits: may be unknown
//	    56     4  codec        0: none
//	    60     4  key          0: not encrypted
//	    64     8  base         LSN of the segment's first byte
//	    72     8  prev base    the segment of this stream before it; 0: none
//	    80     8  prev end     where that one ended
//	    88     8  mark         below it the stream was durable; 0: no statement
//	    96     8  segment size bytes from one segment's base to the next
//	   104     1  stream       0 fresh, 1 survivors
//	   105    19  zero
//	   124     4  crc          CRC-32C of bytes 0 to 123
const headerBytes = 128

type segmentHeader struct {
	storeID      [16]byte
	incarnation  uint64
	required     uint64
	optional     uint64
	base         LSN
	prevBase     LSN
	prevEnd      LSN
	mark         LSN
	segmentBytes uint64
	stream       Stream
}

func appendSegmentHeader(dst []byte, h segmentHeader) []byte {
	var p [headerBytes]byte
	le := binary.LittleEndian
	copy(p[0:], segmentMagic[:])
	le.PutUint32(p[8:], formatVersion)
	le.PutUint32(p[12:], headerBytes)
	copy(p[16:], h.storeID[:])
	le.PutUint64(p[32:], h.incarnation)
	le.PutUint64(p[40:], h.required)
	le.PutUint64(p[48:], h.optional)
	le.PutUint64(p[64:], uint64(h.base))
	le.PutUint64(p[72:], uint64(h.prevBase))
	le.PutUint64(p[80:], uint64(h.prevEnd))
	le.PutUint64(p[88:], uint64(h.mark))
	le.PutUint64(p[96:], h.segmentBytes)
	p[104] = byte(h.stream)
	le.PutUint32(p[124:], crc32.Checksum(p[:124], castagnoli))
	return append(dst, p[:]...)
}

var (
	errMagic     = errors.New("wrong magic number")
	errUnwritten = errors.New("unwritten") // a file that was made and not begun
)

// decodeSegmentHeader returns errUnwritten for zeros and an error wrapping
// ErrVersion for what a later program wrote.
func decodeSegmentHeader(p []byte) (segmentHeader, error) {
	zero := true
	for _, b := range p[:min(len(p), headerBytes)] {
		zero = zero && b == 0
	}
	if zero {
		return segmentHeader{}, errUnwritten
	}
	if len(p) < headerBytes {
		return segmentHeader{}, errShort
	}
	if err := checkFile(p[:headerBytes], segmentMagic, 124); err != nil {
		return segmentHeader{}, err
	}
	le := binary.LittleEndian
	h := segmentHeader{
		storeID:      [16]byte(p[16:32]),
		incarnation:  le.Uint64(p[32:]),
		required:     le.Uint64(p[40:]),
		optional:     le.Uint64(p[48:]),
		base:         LSN(le.Uint64(p[64:])),
		prevBase:     LSN(le.Uint64(p[72:])),
		prevEnd:      LSN(le.Uint64(p[80:])),
		mark:         LSN(le.Uint64(p[88:])),
		segmentBytes: le.Uint64(p[96:]),
		stream:       Stream(p[104]),
	}
	if h.required&^knownFeatures != 0 {
		return h, fmt.Errorf("%w: required features %#x", ErrVersion, h.required&^knownFeatures)
	}
	if codec, key := le.Uint32(p[56:]), le.Uint32(p[60:]); codec != 0 || key != 0 {
		return h, fmt.Errorf("%w: codec %d, key %d", ErrVersion, codec, key)
	}
	if h.stream >= streams {
		return h, fmt.Errorf("%w: stream %d", ErrVersion, h.stream)
	}
	return h, nil
}

// checkFile checks magic, then checksum, then version, in this order: a flipped
// bit in the version is corruption, and a later version has a good checksum,
// which every version has to keep in this place.
func checkFile(p []byte, magic [8]byte, offCRC int) error {
	if [8]byte(p) != magic {
		return errMagic
	}
	if binary.LittleEndian.Uint32(p[offCRC:]) != crc32.Checksum(p[:offCRC], castagnoli) {
		return errChecksum
	}
	if v := binary.LittleEndian.Uint32(p[8:]); v != formatVersion {
		return fmt.Errorf("%w: format version %d", ErrVersion, v)
	}
	return nil
}

// The identity file STORE. Integers are little-endian. It is replaced as a
// whole: written aside, synced, renamed, and the directory synced.
//
//	Offset  Size  Field         Meaning
//	     0     8  magic         "pulksto\n"
//	     8     4  version       of the format: 1
//	    12     4  size          bytes of the file: 128
//	    16    16  store id      random, made with the store
//	    32     8  incarnation   of the last writing open
//	    40     8  required      feature bits: all must be known
//	    48     8  optional      feature bits: may be unknown
//	    56     4  codec         0: none
//	    60     4  key           0: not encrypted
//	    64     8  segment size  bytes
//	    72     8  next segment  no number below it will be used again
//	    80    44  zero
//	   124     4  crc           CRC-32C of bytes 0 to 123
const identityBytes = 128

type identity struct {
	storeID      [16]byte
	incarnation  uint64
	required     uint64
	optional     uint64
	segmentBytes uint64
	nextSegment  uint64
}

func appendIdentity(dst []byte, id identity) []byte {
	var p [identityBytes]byte
	le := binary.LittleEndian
	copy(p[0:], storeMagic[:])
	le.PutUint32(p[8:], formatVersion)
	le.PutUint32(p[12:], identityBytes)
	copy(p[16:], id.storeID[:])
	le.PutUint64(p[32:], id.incarnation)
	le.PutUint64(p[40:], id.required)
	le.PutUint64(p[48:], id.optional)
	le.PutUint64(p[64:], id.segmentBytes)
	le.PutUint64(p[72:], id.nextSegment)
	le.PutUint32(p[124:], crc32.Checksum(p[:124], castagnoli))
	return append(dst, p[:]...)
}

func decodeIdentity(p []byte) (identity, error) {
	if len(p) < identityBytes {
		return identity{}, errShort
	}
	if err := checkFile(p[:identityBytes], storeMagic, 124); err != nil {
		return identity{}, err
	}
	le := binary.LittleEndian
	id := identity{
		storeID:      [16]byte(p[16:32]),
		incarnation:  le.Uint64(p[32:]),
		required:     le.Uint64(p[40:]),
		optional:     le.Uint64(p[48:]),
		segmentBytes: le.Uint64(p[64:]),
		nextSegment:  le.Uint64(p[72:]),
	}
	if id.required&^knownFeatures != 0 {
		return id, fmt.Errorf("%w: required features %#x", ErrVersion, id.required&^knownFeatures)
	}
	if codec, key := le.Uint32(p[56:]), le.Uint32(p[60:]); codec != 0 || key != 0 {
		return id, fmt.Errorf("%w: codec %d, key %d", ErrVersion, codec, key)
	}
	if id.segmentBytes < segmentBytesMin || id.segmentBytes > segmentBytesMax {
		return id, fmt.Errorf("%w: segment size %d", errLayout, id.segmentBytes)
	}
	return id, nil
}
