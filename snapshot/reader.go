package snapshot

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
)

// A reader reads one file: header, trailer and footer first, then, by deliver,
// the slots from front to end.
type reader struct {
	// Immutable after openReader.
	name     string
	file     vfs.File
	size     int64
	identity Identity
	seed     uint32
	footerAt int64
	checksum uint32 // of the footer
	end      footer

	mu sync.Mutex // held to take the next frame

	// Guarded by mu.
	stream *bufio.Reader
	offset int64
	index  uint32
	slots  uint64  // in the frames so far
	last   log.PID // of the frame before
	failed bool    // nobody takes another frame
}

func openReader(fsys vfs.FS, name string) (*reader, error) {
	file, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("snapshot: open: %w", err)
	}
	r := &reader{name: name, file: file}
	if err := r.readHeader(); err != nil {
		r.close()
		return nil, err
	}
	if err := r.readFooter(); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *reader) link() Link { return Link{r.identity.Sequence, r.identity.Incarnation, r.checksum} }

func (r *reader) close() { _ = r.file.Close() }

func (r *reader) corrupt(offset int64, err error) error {
	return &log.CorruptError{File: r.name, Offset: offset, Err: err}
}

func (r *reader) readHeader() (err error) {
	if r.size, err = r.file.Size(); err != nil {
		return fmt.Errorf("snapshot: read %s: %w", r.name, err)
	}
	if r.size < headerBytes+frameBytes+trailerBytes {
		return r.corrupt(0, errShort)
	}
	p, err := r.read(0, headerBytes)
	if err != nil {
		return err
	}
	if r.identity, r.seed, err = decodeHeader(p); errors.Is(err, log.ErrVersion) {
		return fmt.Errorf("%s: %w", r.name, err)
	} else if err != nil {
		return r.corrupt(0, err)
	}
	return nil
}

func (r *reader) read(offset int64, n int) ([]byte, error) {
	p := make([]byte, n)
	if k, err := r.file.ReadAt(p, offset); k < n {
		return nil, fmt.Errorf("snapshot: read %s: %w", r.name, err)
	}
	return p, nil
}

func (r *reader) readFooter() error {
	trailerAt := r.size - trailerBytes
	p, err := r.read(trailerAt, trailerBytes)
	if err != nil {
		return err
	}
	if r.footerAt, err = decodeTrailer(p, r.seed); err != nil {
		return r.corrupt(trailerAt, err)
	}
	n := trailerAt - r.footerAt
	if r.footerAt < headerBytes || n < frameBytes || n > frameBytes+maxFooterBytes {
		return r.corrupt(trailerAt, errTail)
	}
	if p, err = r.read(r.footerAt, int(n)); err != nil {
		return err
	}
	f, err := decodeFrame(p)
	switch {
	case err != nil:
	case f.kind != kindFooter || int64(f.stored) != n-frameBytes:
		err = errTail
	default:
		err = checkFrame(p, r.seed)
	}
	if err != nil {
		return r.corrupt(r.footerAt, err)
	}
	r.checksum = binary.LittleEndian.Uint32(p)
	var d frameDecoder
	defer d.close()
	raw, err := d.decompress(f, p[frameBytes:])
	if err == nil {
		r.end, err = decodeFooter(raw)
	}
	if err == nil && r.end.frames != uint64(f.index) {
		err = errCount
	}
	if err != nil {
		return r.corrupt(r.footerAt, err)
	}
	r.end.header.Identity = r.identity
	return nil
}

// deliverersMax bounds the goroutines that decode one file.
const deliverersMax = 8

// deliver calls slot with the slots of the file, by several goroutines.
func (r *reader) deliver(slot func(Slot) error) error {
	r.offset = headerBytes
	r.stream = bufio.NewReaderSize(io.NewSectionReader(r.file, headerBytes, r.footerAt-headerBytes), 2*chunkBytes)
	n := int(min(uint64(runtime.GOMAXPROCS(0)), deliverersMax, max(r.end.frames, 1)))
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := 1; i < n; i++ {
		wg.Go(func() { errs[i] = r.deliverFrames(slot) })
	}
	errs[0] = r.deliverFrames(slot)
	wg.Wait()
	// What the Sink said goes before what is wrong with the file.
	var fatal *callbackError
	for _, err := range errs {
		if errors.As(err, &fatal) {
			return err
		}
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	if r.slots != r.end.slots || uint64(r.index) != r.end.frames {
		return r.corrupt(r.footerAt, errCount)
	}
	return nil
}

// deliverFrames takes frame after frame until there is none left.
func (r *reader) deliverFrames(slot func(Slot) error) (err error) {
	var d frameDecoder
	defer d.close()
	defer func() {
		if err != nil {
			r.mu.Lock()
			r.failed = true
			r.mu.Unlock()
		}
	}()
	for {
		f, at, err := r.next(&d)
		if err != nil || at < 0 {
			return err
		}
		if err := checkFrame(d.frame, r.seed); err != nil {
			return r.corrupt(at, err)
		}
		raw, err := d.decompress(f, d.frame[frameBytes:])
		if err == nil {
			err = d.deliver(f, raw, slot)
		}
		if fatal := (*callbackError)(nil); err != nil && !errors.As(err, &fatal) {
			return r.corrupt(at, err)
		} else if err != nil {
			return err
		}
	}
}

// next reads the next frame into d.frame. Its checksum is not checked, so that
// this is done by several at once; but frames are told to be in order, and each
// holds to what its header says. at is -1 if there is none left.
func (r *reader) next(d *frameDecoder) (f frame, at int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at = r.offset
	if at == r.footerAt || r.failed {
		return f, -1, nil
	}
	left := r.footerAt - at - frameBytes
	if left < 0 {
		return f, at, r.corrupt(at, errShort)
	}
	d.frame = sized(d.frame, frameBytes)
	if _, err := io.ReadFull(r.stream, d.frame); err != nil {
		return f, at, fmt.Errorf("snapshot: read %s: %w", r.name, err)
	}
	if f, err = decodeFrame(d.frame); err != nil {
		return f, at, r.corrupt(at, err)
	}
	switch {
	case left < int64(f.stored):
		err = errShort
	case f.kind != kindSlots || f.index != r.index || f.count == 0:
		err = errFrame
	case r.index > 0 && f.first <= r.last || f.last > r.end.header.MaxPID:
		err = errValue // (S4)
	}
	if err != nil {
		return f, at, r.corrupt(at, err)
	}
	d.frame = sized(d.frame, frameBytes+int(f.stored))
	if _, err := io.ReadFull(r.stream, d.frame[frameBytes:]); err != nil {
		return f, at, fmt.Errorf("snapshot: read %s: %w", r.name, err)
	}
	r.index++
	r.offset += frameBytes + int64(f.stored)
	r.slots += uint64(f.count)
	r.last = f.last
	return f, at, nil
}

// A frameDecoder has what one goroutine needs to decode frames.
type frameDecoder struct {
	frame []byte // header and payload
	raw   []byte // a decompressed payload
	zstd  *zstd.Decoder
}

func (d *frameDecoder) close() {
	if d.zstd != nil {
		decoders.Put(d.zstd)
	}
}

// decoders keeps zstd decoders, which are dear to make. One that is dropped needs
// no Close: without a stream it has no goroutines.
var decoders sync.Pool

// decompress returns the payload of a frame as it was before compression. It is
// valid until the next call.
func (d *frameDecoder) decompress(f frame, payload []byte) (raw []byte, err error) {
	if f.codec == codecNone {
		return payload, nil
	}
	if d.zstd == nil {
		d.zstd, _ = decoders.Get().(*zstd.Decoder)
	}
	if d.zstd == nil {
		d.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			return nil, err
		}
	}
	d.raw = sized(d.raw, int(f.raw))
	raw, err = d.zstd.DecodeAll(payload, d.raw[:0:f.raw]) // no more than fits (S5)
	if err != nil {
		return nil, err
	}
	if len(raw) != int(f.raw) {
		return nil, errValue
	}
	return raw, nil
}

// deliver calls slot with the slots of one frame.
func (d *frameDecoder) deliver(f frame, raw []byte, slot func(Slot) error) error {
	c := slotCoder{pid: f.first}
	var s Slot
	var space [tagCountMany]log.Position
	positions := space[:0]
	for i := range f.count {
		before := c.pid
		s.Positions = positions
		n, err := c.decodeSlot(raw, &s)
		if err != nil {
			return err
		}
		if (i == 0) != (s.PID == before) || s.PID > f.last {
			return errValue // the first is the frame's, all others are above (S4)
		}
		positions = s.Positions
		raw = raw[n:]
		if err := slot(s); err != nil {
			return &callbackError{err}
		}
	}
	if len(raw) != 0 || c.pid != f.last {
		return errValue
	}
	return nil
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
