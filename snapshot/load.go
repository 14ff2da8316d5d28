package snapshot

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
)

// Load finds the newest usable snapshot of dir and delivers it.
//
// It takes the files newest first. One that is damaged, unreadable or of another
// store is reported to logger, and the next older one is taken. For one that is
// complete accept is called with its header, and then slot with each slot, in
// ascending order. What a slot's Positions are in is overwritten by the next
// call.
//
// accept may return an error that wraps ErrRefused: then the next older one is
// taken. Each call of accept is a fresh start: if slots of an earlier one have
// been delivered, they are to be forgotten. Every other error of accept or slot
// ends Load and is returned as it is, and so is log.ErrVersion (S6).
//
// passed, if given, is called with what is wrong with each file that is passed over:
// if the older ones are not enough, that is why.
//
// found is false, without an error, if there is no usable snapshot. Then the
// whole log is needed, from its first segment: the caller has to check that it
// is all there, and if it is not, that is corruption.
func Load(
	fsys vfs.FS, dir string, storeID [16]byte, logger *slog.Logger,
	accept func(Header) error, slot func(Slot) error, passed ...func(error),
) (h Header, found bool, err error) {
	infos, err := List(fsys, dir)
	if err != nil {
		return Header{}, false, err
	}
	for _, info := range infos {
		h, err := loadOne(fsys, info, storeID, accept, slot)
		var fatal *callbackError
		switch {
		case err == nil:
			return h, true, nil
		case errors.Is(err, log.ErrVersion):
			return Header{}, false, err
		case errors.As(err, &fatal) && !errors.Is(err, ErrRefused):
			return Header{}, false, fatal.err
		}
		paths.Hit(paths.SnapshotFallback)
		for _, f := range passed {
			f(fmt.Errorf("page-table snapshot %s was passed over: %w", info.Name, err))
		}
		if logger != nil {
			logger.Warn("page-table snapshot cannot be used, trying an older one",
				"file", info.Name, "error", err)
		}
	}
	return Header{}, false, nil
}

// A callbackError sets what accept and slot said apart from what is wrong with
// the file.
type callbackError struct{ err error }

func (e *callbackError) Error() string { return e.err.Error() }
func (e *callbackError) Unwrap() error { return e.err }

// loadOne checks one file (S3) and delivers it.
func loadOne(
	fsys vfs.FS, info Info, storeID [16]byte, accept func(Header) error, slot func(Slot) error,
) (Header, error) {
	r, err := openReader(fsys, info.Name)
	if err != nil {
		return Header{}, err
	}
	defer r.close()
	switch {
	case r.identity.StoreID != storeID:
		return Header{}, r.corrupt(0, errStore)
	case r.identity.Sequence != info.Sequence:
		return Header{}, r.corrupt(0, errSequence)
	}
	h, err := r.verify()
	if err != nil {
		return Header{}, err
	}
	if accept != nil {
		if err := accept(h); err != nil {
			return Header{}, &callbackError{err}
		}
	}
	return h, r.deliver(h.MaxPID, slot)
}

// A reader reads one file, twice from front to end: verify, then deliver.
type reader struct {
	// Immutable after openReader.
	name     string
	file     vfs.File
	size     int64
	identity Identity
	seed     uint32
	decoder  *zstd.Decoder

	// Of the pass under way.
	stream *bufio.Reader
	offset int64
	index  uint32
	buffer []byte // a whole frame
	raw    []byte // a decompressed payload
	slots  uint64 // in the frames so far
}

func openReader(fsys vfs.FS, name string) (*reader, error) {
	file, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("snapshot: open: %w", err)
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("snapshot: open: %w", err)
	}
	r := &reader{name: name, file: file, decoder: decoder}
	if err := r.readHeader(); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *reader) readHeader() (err error) {
	if r.size, err = r.file.Size(); err != nil {
		return fmt.Errorf("snapshot: read: %w", err)
	}
	if r.size < headerBytes {
		return r.corrupt(0, errShort)
	}
	var p [headerBytes]byte
	if n, err := r.file.ReadAt(p[:], 0); n < headerBytes {
		return fmt.Errorf("snapshot: read: %w", err)
	}
	if r.identity, r.seed, err = decodeHeader(p[:]); errors.Is(err, log.ErrVersion) {
		return fmt.Errorf("%s: %w", r.name, err)
	} else if err != nil {
		return r.corrupt(0, err)
	}
	return nil
}

func (r *reader) close() {
	_ = r.file.Close()
	r.decoder.Close()
}

func (r *reader) corrupt(offset int64, err error) error {
	return &log.CorruptError{File: r.name, Offset: offset, Err: err}
}

// rewind starts a pass.
func (r *reader) rewind() {
	r.offset, r.index, r.slots = headerBytes, 0, 0
	section := io.NewSectionReader(r.file, headerBytes, r.size-headerBytes)
	if r.stream == nil {
		r.stream = bufio.NewReaderSize(section, chunkBytes)
	} else {
		r.stream.Reset(section)
	}
}

// next reads the next frame and checks its checksum. The payload is valid until
// the next call.
func (r *reader) next() (f frame, payload []byte, err error) {
	if r.size-r.offset < frameBytes {
		return f, nil, r.corrupt(r.offset, errShort)
	}
	r.buffer = sized(r.buffer, frameBytes)
	if _, err := io.ReadFull(r.stream, r.buffer); err != nil {
		return f, nil, fmt.Errorf("snapshot: read %s: %w", r.name, err)
	}
	if f, err = decodeFrame(r.buffer); err != nil {
		return f, nil, r.corrupt(r.offset, err)
	}
	if r.size-r.offset-frameBytes < int64(f.stored) {
		return f, nil, r.corrupt(r.offset, errShort)
	}
	r.buffer = sized(r.buffer, frameBytes+int(f.stored))
	if _, err := io.ReadFull(r.stream, r.buffer[frameBytes:]); err != nil {
		return f, nil, fmt.Errorf("snapshot: read %s: %w", r.name, err)
	}
	if err := checkFrame(r.buffer, r.seed); err != nil {
		return f, nil, r.corrupt(r.offset, err)
	}
	if f.index != r.index {
		return f, nil, r.corrupt(r.offset, errFrame)
	}
	r.index++
	r.offset += frameBytes + int64(f.stored)
	r.slots += uint64(f.count)
	return f, r.buffer[frameBytes:], nil
}

// verify reads the whole file once and returns its header.
func (r *reader) verify() (Header, error) {
	r.rewind()
	for {
		start := r.offset
		f, payload, err := r.next()
		if err != nil {
			return Header{}, err
		}
		if f.kind == kindSlots {
			continue
		}
		if r.offset != r.size {
			return Header{}, r.corrupt(r.offset, errTail)
		}
		raw, err := r.decompress(f, payload)
		if err != nil {
			return Header{}, r.corrupt(start, err)
		}
		end, err := decodeFooter(raw)
		if err != nil {
			return Header{}, r.corrupt(start, err)
		}
		if end.slots != r.slots || end.frames != uint64(f.index) {
			return Header{}, r.corrupt(start, errCount)
		}
		end.header.Identity = r.identity
		return end.header, nil
	}
}

// deliver reads the whole file again and calls slot with what is in it.
func (r *reader) deliver(maxPID log.PID, slot func(Slot) error) error {
	r.rewind()
	var last log.PID
	any := false
	for {
		start := r.offset
		f, payload, err := r.next()
		if err != nil {
			return err
		}
		if f.kind == kindFooter {
			return nil
		}
		if any && f.first <= last {
			return r.corrupt(start, errValue)
		}
		raw, err := r.decompress(f, payload)
		if err != nil {
			return r.corrupt(start, err)
		}
		if last, err = deliverChunk(f, raw, maxPID, slot); err != nil {
			if fatal := (*callbackError)(nil); errors.As(err, &fatal) {
				return err
			}
			return r.corrupt(start, err)
		}
		any = true
	}
}

// deliverChunk calls slot with the slots of one chunk and returns the last PID.
func deliverChunk(f frame, raw []byte, maxPID log.PID, slot func(Slot) error) (log.PID, error) {
	if f.count == 0 {
		return 0, errValue
	}
	c := slotCoder{pid: f.first}
	var s Slot
	var space [tagCountMany]log.Position
	positions := space[:0]
	for i := range f.count {
		before := c.pid
		s.Positions = positions
		n, err := c.decodeSlot(raw, &s)
		if err != nil {
			return 0, err
		}
		if (i == 0) != (s.PID == before) || s.PID > maxPID {
			return 0, errValue // the first is the frame's, all others are above (S4)
		}
		positions = s.Positions
		raw = raw[n:]
		if slot != nil {
			if err := slot(s); err != nil {
				return 0, &callbackError{err}
			}
		}
	}
	if len(raw) != 0 {
		return 0, errValue
	}
	return c.pid, nil
}

// decompress returns the payload of a frame as it was before compression. It is
// valid until the next call of decompress or next.
func (r *reader) decompress(f frame, payload []byte) ([]byte, error) {
	if f.codec == codecNone {
		return payload, nil
	}
	r.raw = sized(r.raw, int(f.raw))
	raw, err := r.decoder.DecodeAll(payload, r.raw[:0:f.raw]) // no more than fits (S5)
	if err != nil {
		return nil, err
	}
	if len(raw) != int(f.raw) {
		return nil, errValue
	}
	return raw, nil
}

// sized returns a slice of n bytes, p's own if it has room.
func sized(p []byte, n int) []byte {
	if cap(p) >= n {
		return p[:n]
	}
	grown := make([]byte, n)
	copy(grown, p)
	return grown
}
