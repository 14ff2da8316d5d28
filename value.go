package db

import (
	"errors"
	"fmt"
	"io"

	"github.com/pulkdb/db/tree"
)

// SetFrom stores under key a value of size bytes, which it reads from r: exactly so
// many; what follows in r stays there. Of a long value, one of more than 1 MiB, it
// holds a part at a time in memory, 512 KiB at most, and writes it to pages of its
// own, which do not go through the cache. So a value may be larger than the cache.
//
// The value is seen, and survives a crash, whole or not at all: until the last byte
// was read and written the key has what it had, and the write counts as made then.
// If r fails, which SetFrom returns wrapped, or ends before, which is
// io.ErrUnexpectedEOF, nothing is stored, and the space of the parts is free again.
func (d *DB) SetFrom(key []byte, r io.Reader, size int64) error {
	if err := d.checkWrite(key, nil); err != nil {
		return err
	}
	if size < 0 || size > MaxValueBytes {
		return fmt.Errorf("%w: a value of %d bytes, at most %d", ErrTooLarge, size, MaxValueBytes)
	}
	start := d.recorder.start(opSet)
	err := d.tree.SetFrom(key, r, size)
	d.recorder.stop(opSet, start)
	if err != nil {
		return d.translate(err)
	}
	d.recorder.wrote(len(key) + int(size))
	return nil
}

// GetReader returns a reader of key's value as it is now, or ErrNotFound. The
// reader must be closed.
func (d *DB) GetReader(key []byte) (*ValueReader, error) {
	if err := d.checkRead(key); err != nil {
		return nil, err
	}
	start := d.recorder.start(opGet)
	r, err := d.tree.GetReader(key)
	d.recorder.stop(opGet, start)
	return d.newReader(r, err)
}

// GetReader returns a reader of the value that key had, or ErrNotFound. It must be
// closed, and may outlive the snapshot.
func (s *Snapshot) GetReader(key []byte) (*ValueReader, error) {
	if err := s.checkRead(key); err != nil {
		return nil, err
	}
	r, err := s.db.readerAt(s.moment, key)
	if s.closed.Load() {
		if err == nil {
			_ = r.Close()
		}
		return nil, ErrClosed
	}
	return r, err
}

// GetReader returns a reader of the value that key has in the transaction, or
// ErrNotFound. It counts as a read of key. It must be closed, and may outlive the
// transaction.
func (tx *Tx) GetReader(key []byte) (*ValueReader, error) {
	if err := tx.checkRead(key); err != nil {
		return nil, err
	}
	if w, erased := tx.own(key); w.kind != 0 || erased {
		value, err := tx.Get(key)
		if err != nil {
			return nil, err
		}
		return &ValueReader{db: tx.db, r: tree.NewValueReader(value)}, nil
	}
	tx.noteRead(key)
	return tx.db.readerAt(tx.moment, key)
}

func (d *DB) readerAt(moment *tree.Moment, key []byte) (*ValueReader, error) {
	start := d.recorder.start(opGet)
	r, err := d.tree.GetReaderAt(moment, key)
	d.recorder.stop(opGet, start)
	return d.newReader(r, err)
}

func (d *DB) newReader(r *tree.ValueReader, err error) (*ValueReader, error) {
	if err != nil {
		return nil, d.translate(err)
	}
	return &ValueReader{db: d, r: r}, nil
}

// A ValueReader reads one value as it stood when GetReader was called, whatever is
// written meanwhile. Of a long value it holds two parts in memory, of 512 KiB at
// most: that which is being read and, while it is read in order, the next one. Parts
// that are read do not go through the cache. The space of a value that was replaced
// comes back only when its readers are closed.
//
// It is an io.ReadSeekCloser, an io.ReaderAt and an io.WriterTo. Read, Seek and
// WriteTo are for one goroutine at a time, the others for any number. After its
// Close, or the store's, reads fail with ErrClosed. The store's Close does not wait
// for it.
type ValueReader struct {
	db *DB
	r  *tree.ValueReader
}

var _ interface {
	io.ReadSeekCloser
	io.ReaderAt
	io.WriterTo
} = (*ValueReader)(nil)

// Size is the length of the value.
func (r *ValueReader) Size() int64 { return r.r.Size() }

// Read reads on into p. At the end of the value it returns io.EOF.
func (r *ValueReader) Read(p []byte) (int, error) {
	if r.db.closed.Load() {
		return 0, ErrClosed
	}
	n, err := r.r.Read(p)
	return n, r.translate(err)
}

// ReadAt reads len(p) bytes from off on, or, with io.EOF, what there is. Calls are
// served one after the other, from the part that was read last if it has them.
func (r *ValueReader) ReadAt(p []byte, off int64) (int, error) {
	if r.db.closed.Load() {
		return 0, ErrClosed
	}
	n, err := r.r.ReadAt(p, off)
	return n, r.translate(err)
}

// Seek sets where Read goes on, and returns it. Behind the end there is nothing to
// read.
func (r *ValueReader) Seek(offset int64, whence int) (int64, error) {
	return r.r.Seek(offset, whence)
}

// WriteTo writes the rest of the value to w.
func (r *ValueReader) WriteTo(w io.Writer) (int64, error) {
	if r.db.closed.Load() {
		return 0, ErrClosed
	}
	n, err := r.r.WriteTo(w)
	return n, r.translate(err)
}

// Close gives the value up. A second Close is harmless.
func (r *ValueReader) Close() error { return r.r.Close() }

func (r *ValueReader) translate(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return r.db.translate(err)
}
