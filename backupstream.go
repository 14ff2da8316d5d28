package db

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// The stream of a backup is a header and frames; streams may follow each other.
//
//	header   magic 8, version u32, required features u32, incremental u32,
//	         store id 16, stamp u64, since u64, checksum u32
//	frame    kind u8, length of the payload u32, checksum u32, payload
//
// Numbers are little-endian. A checksum is CRC-32C of what stands before it, or of kind,
// length and payload, begun with the checksum before: so frames that are altered, missing,
// or in another order or stream do not fit. The last frame is frameEnd: a stream without
// it was cut.
//
//	frameSpan   open end u8, bytes of lo uvarint, lo, hi: from lo up to hi there are the
//	            rows that follow, and no others
//	frameRows   rows: bytes of the key uvarint, key, bytes of the value uvarint, value
//	frameLarge  size of a value u64, key
//	framePart   the next bytes of it
//	frameEnd    rows u64, bytes u64 of their keys and values
const (
	backupMagic       = "pulkbak\n"
	backupVersion     = 1
	backupHeaderBytes = 8 + 4 + 4 + 4 + 16 + 8 + 8 + 4

	frameHeaderBytes = 1 + 4 + 4
	frameBytes       = 256 << 10 // a frame of rows is written at this size
	framePartBytes   = 256 << 10
	frameBytesMax    = 2 << 20 // one row more, with a key of 64 KiB and a value of backupLarge
)

type frameKind uint8

const (
	frameSpan frameKind = iota + 1
	frameRows
	frameLarge
	framePart
	frameEnd
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type backupHeader struct {
	incremental bool
	store       [16]byte
	stamp       uint64
	since       uint64
}

func (h *backupHeader) append(dst []byte) []byte {
	le := binary.LittleEndian
	dst = append(dst, backupMagic...)
	dst = le.AppendUint32(dst, backupVersion)
	dst = le.AppendUint32(dst, 0)
	incremental := uint32(0)
	if h.incremental {
		incremental = 1
	}
	dst = le.AppendUint32(dst, incremental)
	dst = append(dst, h.store[:]...)
	dst = le.AppendUint64(dst, h.stamp)
	dst = le.AppendUint64(dst, h.since)
	return le.AppendUint32(dst, crc32.Checksum(dst[len(dst)-backupHeaderBytes+4:], castagnoli))
}

// decodeBackupHeader decodes what append made. Its version comes first: another one may
// have another header.
func decodeBackupHeader(p []byte) (h backupHeader, err error) {
	le := binary.LittleEndian
	if string(p[:8]) != backupMagic {
		return h, errors.New("no backup begins here")
	}
	if v, features := le.Uint32(p[8:]), le.Uint32(p[12:]); v != backupVersion || features != 0 {
		return h, fmt.Errorf("%w: a backup of format version %d with features %#x", ErrVersion, v, features)
	}
	body := p[:backupHeaderBytes-4]
	if crc32.Checksum(body, castagnoli) != le.Uint32(p[len(body):]) || le.Uint32(p[16:]) > 1 {
		return h, errors.New("the header's checksum is wrong")
	}
	h.incremental = le.Uint32(p[16:]) == 1
	copy(h.store[:], p[20:])
	h.stamp, h.since = le.Uint64(p[36:]), le.Uint64(p[44:])
	return h, nil
}

// A backupWriter writes a stream.
type backupWriter struct {
	w       io.Writer
	written int64
	sum     uint32
	rows    []byte // of the frame that is not written yet
	frame   []byte
}

func newBackupWriter(w io.Writer) *backupWriter { return &backupWriter{w: w} }

func (b *backupWriter) write(p []byte) error {
	n, err := b.w.Write(p)
	b.written += int64(n)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("db: backup: %w", err)
	}
	return nil
}

func (b *backupWriter) header(h backupHeader) error {
	p := h.append(nil)
	b.sum = binary.LittleEndian.Uint32(p[len(p)-4:])
	return b.write(p)
}

func frameSum(before uint32, header, payload []byte) uint32 {
	return crc32.Update(crc32.Update(before, castagnoli, header[:5]), castagnoli, payload)
}

// emit writes one frame.
func (b *backupWriter) emit(kind frameKind, payload []byte) error {
	b.frame = append(b.frame[:0], byte(kind))
	b.frame = binary.LittleEndian.AppendUint32(b.frame, uint32(len(payload)))
	b.sum = frameSum(b.sum, b.frame, payload)
	b.frame = binary.LittleEndian.AppendUint32(b.frame, b.sum)
	b.frame = append(b.frame, payload...)
	return b.write(b.frame)
}

func (b *backupWriter) flush() error {
	if len(b.rows) == 0 {
		return nil
	}
	err := b.emit(frameRows, b.rows)
	b.rows = b.rows[:0]
	return err
}

func (b *backupWriter) span(lo, hi []byte) error {
	if err := b.flush(); err != nil {
		return err
	}
	p := []byte{0}
	if hi == nil {
		p[0] = 1
	}
	p = binary.AppendUvarint(p, uint64(len(lo)))
	p = append(p, lo...)
	return b.emit(frameSpan, append(p, hi...))
}

func (b *backupWriter) row(ctx context.Context, key, value []byte) error {
	b.rows = binary.AppendUvarint(b.rows, uint64(len(key)))
	b.rows = append(b.rows, key...)
	b.rows = binary.AppendUvarint(b.rows, uint64(len(value)))
	b.rows = append(b.rows, value...)
	if len(b.rows) < frameBytes {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.flush()
}

// large writes a value in parts.
func (b *backupWriter) large(ctx context.Context, key []byte, r io.Reader, size int64) error {
	if err := b.flush(); err != nil {
		return err
	}
	p := binary.LittleEndian.AppendUint64(nil, uint64(size))
	if err := b.emit(frameLarge, append(p, key...)); err != nil {
		return err
	}
	part := make([]byte, min(size, framePartBytes))
	for size > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		part = part[:min(size, int64(len(part)))]
		if _, err := io.ReadFull(r, part); err != nil {
			return err
		}
		if err := b.emit(framePart, part); err != nil {
			return err
		}
		size -= int64(len(part))
	}
	return nil
}

func (b *backupWriter) end(rows, bytes int64) error {
	if err := b.flush(); err != nil {
		return err
	}
	p := binary.LittleEndian.AppendUint64(nil, uint64(rows))
	return b.emit(frameEnd, binary.LittleEndian.AppendUint64(p, uint64(bytes)))
}

// A backupReader reads streams.
type backupReader struct {
	r      *bufio.Reader
	at     int64 // offset of what was read last
	next   int64 // of what comes next
	sum    uint32
	buffer []byte
}

func newBackupReader(r io.Reader) *backupReader {
	return &backupReader{r: bufio.NewReaderSize(r, 64<<10)}
}

// corrupt says that what was read last is not as it was written.
func (b *backupReader) corrupt(why error) error {
	return &CorruptError{File: "backup", Offset: b.at, Err: why}
}

var (
	errCut      = errors.New("the backup ends here, and is not complete")
	errFrame    = errors.New("a frame is malformed")
	errChecksum = errors.New("a frame's checksum is wrong, or a frame is missing")
)

// read fills p. An end is io.EOF if nothing of p was there.
func (b *backupReader) read(p []byte) error {
	n, err := io.ReadFull(b.r, p)
	b.next += int64(n)
	switch {
	case err == nil, err == io.EOF:
		return err
	case err == io.ErrUnexpectedEOF:
		return b.corrupt(errCut)
	}
	return fmt.Errorf("db: restore: %w", err)
}

// header reads the header of the next stream; it returns io.EOF if there is none.
func (b *backupReader) header() (h backupHeader, err error) {
	b.at = b.next
	p := make([]byte, backupHeaderBytes)
	if err := b.read(p); err != nil {
		return h, err
	}
	if h, err = decodeBackupHeader(p); err != nil {
		if errors.Is(err, ErrVersion) {
			return h, err
		}
		return h, b.corrupt(err)
	}
	b.sum = binary.LittleEndian.Uint32(p[len(p)-4:])
	return h, nil
}

// frame reads the next frame. The payload is good until the next call.
func (b *backupReader) frame() (kind frameKind, payload []byte, err error) {
	b.at = b.next
	var header [frameHeaderBytes]byte
	if err := b.read(header[:]); err != nil {
		return 0, nil, b.noEnd(err)
	}
	n := binary.LittleEndian.Uint32(header[1:])
	if n > frameBytesMax {
		return 0, nil, b.corrupt(errFrame)
	}
	if cap(b.buffer) < int(n) {
		b.buffer = make([]byte, n)
	}
	payload = b.buffer[:n]
	if err := b.read(payload); err != nil {
		return 0, nil, b.noEnd(err)
	}
	sum := frameSum(b.sum, header[:], payload)
	if sum != binary.LittleEndian.Uint32(header[5:]) {
		return 0, nil, b.corrupt(errChecksum)
	}
	b.sum = sum
	return frameKind(header[0]), payload, nil
}

func (b *backupReader) noEnd(err error) error {
	if err == io.EOF {
		return b.corrupt(errCut)
	}
	return err
}

// cutField cuts a field with its length off p.
func cutField(p []byte) (field, rest []byte, ok bool) {
	n, k := binary.Uvarint(p)
	if k <= 0 || n > uint64(len(p)-k) {
		return nil, nil, false
	}
	return p[k : k+int(n)], p[k+int(n):], true
}

// decodeSpan decodes a frameSpan; hi is nil for an open end.
func decodeSpan(p []byte) (lo, hi []byte, ok bool) {
	if len(p) == 0 || p[0] > 1 {
		return nil, nil, false
	}
	lo, hi, ok = cutField(p[1:])
	if !ok || p[0] == 1 && len(hi) > 0 {
		return nil, nil, false
	}
	if p[0] == 1 {
		return lo, nil, true
	}
	return lo, hi, true
}
