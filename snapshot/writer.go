package snapshot

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
)

// The file is synced whenever this much was written, so that the sync of the end
// is short and the log's syncs do not wait behind it.
const syncIntervalBytes = 8 << 20

// A Writer writes one snapshot: Create, Add for each slot, then Commit or
// Discard. It holds one chunk in memory. It belongs to one goroutine.
type Writer struct {
	// Immutable after Create.
	fs       vfs.FS
	dir      string
	identity Identity
	seed     uint32 // of the checksums
	encoder  *zstd.Encoder

	file     vfs.File // nil when finished
	offset   int64
	unsynced int64
	err      error // the first; every later call returns it

	chunk   []byte // raw slots
	first   log.PID
	count   uint32
	coder   slotCoder
	scratch []byte // a frame to be written

	frames   uint64
	slots    uint64
	last     log.PID
	checksum uint32 // of the footer, when it is written
}

// Create begins a snapshot in dir, which must exist. The file gets its name only
// at Commit (S1); one of the same sequence is replaced then.
//
// With id.Parent the snapshot is a difference: it consists of the slots of its
// parent, which must be committed and of a lower sequence, and of those added,
// which take the place of the parent's.
func Create(fsys vfs.FS, dir string, id Identity) (*Writer, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(256<<10))
	if err != nil {
		return nil, fmt.Errorf("snapshot: create: %w", err)
	}
	w := &Writer{fs: fsys, dir: dir, identity: id, encoder: encoder}
	w.file, err = fsys.OpenFile(w.tempName(), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return nil, fmt.Errorf("snapshot: create: %w", err)
	}
	header := appendHeader(nil, id)
	_, w.seed, _ = decodeHeader(header)
	if err := w.write(header); err != nil {
		w.Discard()
		return nil, err
	}
	return w, nil
}

func (w *Writer) tempName() string { return fileName(w.dir, w.identity.Sequence, tempSuffix) }

// Add writes one slot; it may keep it in memory for a while. Slots come in
// ascending order of PID (S4). s is not kept.
func (w *Writer) Add(s Slot) error {
	if err := w.check(s); err != nil {
		w.err = err
		return err
	}
	if w.count == 0 {
		w.first = s.PID
		w.coder = slotCoder{pid: s.PID}
	}
	w.chunk = w.coder.appendSlot(w.chunk, &s)
	w.count++
	w.slots++
	w.last = s.PID
	if len(w.chunk) >= chunkBytes {
		return w.flushChunk()
	}
	return nil
}

func (w *Writer) check(s Slot) error {
	switch {
	case w.err != nil:
		return w.err
	case w.file == nil:
		return ErrDone
	case w.slots > 0 && s.PID <= w.last:
		return fmt.Errorf("%w: %d after %d", ErrOrder, s.PID, w.last)
	case s.State != Used && s.State != Free,
		s.State == Used && len(s.Positions) == 0,
		len(s.Positions) > maxPositions:
		return fmt.Errorf("%w: %v", ErrSlot, s)
	}
	return nil
}

func (w *Writer) flushChunk() error {
	if w.count == 0 {
		return nil
	}
	err := w.writeFrame(frame{kind: kindSlots, count: w.count, first: w.first, last: w.last}, w.chunk)
	w.chunk, w.count = w.chunk[:0], 0
	return err
}

// writeFrame compresses the payload where that helps, and writes the frame.
func (w *Writer) writeFrame(f frame, payload []byte) error {
	var header [frameBytes]byte
	w.scratch = append(w.scratch[:0], header[:]...)
	w.scratch = w.encoder.EncodeAll(payload, w.scratch)
	f.codec = codecZstd
	if len(w.scratch)-frameBytes >= len(payload) {
		w.scratch = append(w.scratch[:frameBytes], payload...)
		f.codec = codecNone
	}
	f.stored, f.raw = uint32(len(w.scratch)-frameBytes), uint32(len(payload))
	f.index = uint32(w.frames)
	w.frames++
	putFrame(w.scratch, f, w.seed)
	return w.write(w.scratch)
}

func (w *Writer) write(p []byte) error {
	if _, err := w.file.WriteAt(p, w.offset); err != nil {
		w.err = fmt.Errorf("snapshot: write: %w", err)
		return w.err
	}
	w.offset += int64(len(p))
	if w.unsynced += int64(len(p)); w.unsynced >= syncIntervalBytes {
		w.unsynced = 0
		if err := w.file.Sync(); err != nil {
			w.err = fmt.Errorf("snapshot: sync: %w", err)
			return w.err
		}
	}
	return nil
}

// Commit completes the snapshot with the facts in h and makes it durable under
// its name. h.Identity is that of Create; a zero one is filled in. The caller
// has made sure that every position added is durable in the log.
//
// After an error the snapshot does not count, and w is finished. The file may
// exist all the same if syncing the directory failed: a complete one, which does
// no harm.
func (w *Writer) Commit(h Header) (err error) {
	if w.file == nil {
		return ErrDone
	}
	defer func() {
		if err != nil {
			w.Discard()
		}
	}()
	if w.err != nil {
		return w.err
	}
	if h.Identity != (Identity{}) && h.Identity != w.identity {
		return fmt.Errorf("%w: identity is not that of Create", ErrSlot)
	}
	if w.slots > 0 && w.last > h.MaxPID {
		return fmt.Errorf("%w: max PID %d below %d", ErrOrder, h.MaxPID, w.last)
	}
	if err := w.flushChunk(); err != nil {
		return err
	}
	end := appendFooter(nil, footer{w.frames, w.slots, h})
	if len(end) > maxFooterBytes {
		return fmt.Errorf("%w: footer of %d bytes", ErrSlot, len(end))
	}
	at := w.offset
	if err := w.writeFrame(frame{kind: kindFooter}, end); err != nil {
		return err
	}
	w.checksum = binary.LittleEndian.Uint32(w.scratch)
	if err := w.write(appendTrailer(nil, at, w.seed)); err != nil {
		return err
	}
	if err := w.file.Sync(); err != nil {
		return fmt.Errorf("snapshot: sync: %w", err)
	}
	err = w.file.Close()
	w.file = nil
	if err != nil {
		_ = w.fs.Remove(w.tempName())
		return fmt.Errorf("snapshot: close: %w", err)
	}
	if err := w.fs.Rename(w.tempName(), fileName(w.dir, w.identity.Sequence, suffix)); err != nil {
		_ = w.fs.Remove(w.tempName())
		return fmt.Errorf("snapshot: rename: %w", err)
	}
	if err := w.fs.SyncDir(w.dir); err != nil {
		return fmt.Errorf("snapshot: sync directory: %w", err)
	}
	return nil
}

// File describes the file, after Commit has succeeded.
func (w *Writer) File() File {
	link := Link{Sequence: w.identity.Sequence, Incarnation: w.identity.Incarnation, Checksum: w.checksum}
	return File{Link: link, Bytes: w.offset, Slots: w.slots}
}

// Bytes is what was written to the file so far.
func (w *Writer) Bytes() int64 { return w.offset }

// Discard drops an unfinished snapshot. It does nothing to a finished one.
func (w *Writer) Discard() {
	if w.file == nil {
		return
	}
	_ = w.file.Close()
	w.file = nil
	_ = w.fs.Remove(w.tempName())
}
