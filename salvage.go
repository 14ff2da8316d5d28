package db

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/pulkdb/db/tree"
)

// A SalvageReport says what Salvage has brought out, and what may be lost.
type SalvageReport struct {
	// Keys and Bytes count the keys that were brought out, and the bytes of them
	// and their values.
	Keys, Bytes int64

	// Damage is what is wrong with the files, by file and offset: where bytes begin
	// that could not be read, and what is missing.
	Damage []*CorruptError

	// Lost are the ranges of keys that may be missing, or have an older value, or be
	// there although they were deleted. They may overlap. A range of all keys is
	// among them if there is damage in the newest part of the log, of which no
	// page-table snapshot tells what it held.
	Lost []LostRange

	// LostValues are the keys that are missing because their value, a large one,
	// could not be put together, or because their merge operands could not be
	// folded, as without Options.Merger.
	LostValues [][]byte
}

// A LostRange is the keys in [Lo, Hi); nil is an open end.
type LostRange struct {
	Lo, Hi []byte
	Why    string
}

// Whole reports whether nothing is lost: what was brought out is what the store
// held.
func (r *SalvageReport) Whole() bool { return len(r.Lost) == 0 && len(r.LostValues) == 0 }

// Lossy reports whether the key may be missing, or have an older value, or be there
// although it was deleted. Of a key for which it does not, what was brought out is
// what the store held.
func (r *SalvageReport) Lossy(key []byte) bool {
	within := func(l LostRange) bool {
		return bytes.Compare(l.Lo, key) <= 0 && (l.Hi == nil || bytes.Compare(key, l.Hi) < 0)
	}
	return slices.ContainsFunc(r.Lost, within) ||
		slices.ContainsFunc(r.LostValues, func(k []byte) bool { return bytes.Equal(k, key) })
}

// Salvage brings out of the store in directory dir, which Open may refuse or which
// answers with CorruptErrors, all that can be trusted, into a new store in directory
// into, which must not exist, or be empty. It changes nothing in dir.
// Options are those of the new store; those that say when writes are durable count
// only after Salvage, which makes all of it durable before it returns.
//
// It reads the whole log, from the first file to the last, and takes the newest
// version of each page that it finds; page-table snapshots, the STORE file and inner
// nodes may all be lost. A key has the value it had, or an older one of its values,
// and then the report says so. Batches and transactions in ranges that the report
// names may have come out in part.
//
// What the newest part of the log held is not missed if nothing is left that speaks
// of it: no mark in what follows, and no page-table snapshot. Close leaves both.
//
// It takes memory for the bounds of each page, and some 64 bytes for each change of
// it that is still in the log, beside the CacheSize of the new store. With an error,
// one of ctx among them, what is in into is to be thrown away. Errors: ErrLocked
// while dir is open to be written; ErrNotStore if nothing of a store is in it;
// ErrVersion; fs.ErrExist if into is not empty, or no directory; what Open and writing
// return for into.
func Salvage(ctx context.Context, dir, into string, opts *Options) (report *SalvageReport, err error) {
	o := opts.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.ReadOnly || o.InMemory {
		return nil, fmt.Errorf("%w: a store to salvage into is written to disk", ErrInvalidOptions)
	}
	if err := checkDir(dir, true); err != nil {
		return nil, err
	}
	s := &salvage{report: &SalvageReport{}}
	source := o.tree(dir)
	x, err := tree.OpenSalvage(source.Cache.FS, dir, source.Merger, tree.SalvageTarget{
		Set: s.set, SetFrom: s.setFrom,
		Lost:      func(l tree.LostRange) { s.report.Lost = append(s.report.Lost, LostRange(l)) },
		LostValue: func(key []byte, _ error) { s.report.LostValues = append(s.report.LostValues, bytes.Clone(key)) },
	})
	if err != nil {
		return nil, fmt.Errorf("db: salvage %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, x.Close()) }()
	if err := s.create(into, o); err != nil {
		return nil, fmt.Errorf("db: salvage into %s: %w", into, err)
	}
	err = x.Run(ctx)
	if err == nil {
		err = s.flush()
	}
	if err = errors.Join(err, s.into.Close()); err != nil {
		return nil, fmt.Errorf("db: salvage %s: %w", dir, err)
	}
	s.report.Damage = x.Damage()
	return s.report, nil
}

// salvageBatchBytes is how much is written at a time.
const salvageBatchBytes = 256 << 10

// A salvage writes what is brought out.
type salvage struct {
	into   *DB
	batch  *Batch
	report *SalvageReport
}

// create makes the new store.
func (s *salvage) create(into string, o Options) error {
	if err := vacant(into); err != nil {
		return err
	}
	o.Durability = DurabilityNone
	d, err := Open(into, &o)
	if err != nil {
		return err
	}
	s.into, s.batch = d, d.NewBatch()
	return nil
}

func (s *salvage) count(key []byte, value int64) {
	s.report.Keys++
	s.report.Bytes += int64(len(key)) + value
}

func (s *salvage) set(key, value []byte) error {
	if err := s.batch.Set(key, value); err != nil {
		return err
	}
	s.count(key, int64(len(value)))
	if s.batch.Size() < salvageBatchBytes {
		return nil
	}
	return s.flush()
}

func (s *salvage) flush() error {
	err := s.batch.Commit()
	s.batch.Reset()
	return err
}

func (s *salvage) setFrom(key []byte, r io.Reader, size int64) error {
	err := s.into.SetFrom(key, r, size)
	if err == nil {
		s.count(key, size)
	}
	return err
}
