package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/pulkdb/db"
)

// The store holds three kinds of keys:
//
//	fmt.Println             a declaration: signature, first sentence, kind and place
//	src/fmt/print.go        a source file
//	state/src/fmt/print.go  its size and time, and the declarations in it
//
// One batch holds all that belongs to a file, so whatever happens, the state of
// a file agrees with the rest.
const (
	sourcePrefix = "src/"
	statePrefix  = "state/"
)

func isDeclaration(key []byte) bool {
	return !bytes.HasPrefix(key, []byte(sourcePrefix)) && !bytes.HasPrefix(key, []byte(statePrefix))
}

// batchBytes is how much is written at once: a sync is shared by that much.
const batchBytes = 1 << 20

// A state is what the store knows of a source file: whether it is still the
// same, and which declarations came from it.
type state struct {
	mark  string // size and time of modification
	names []string
}

// loadStates returns the states of all files in the store, by path.
func loadStates(store *db.DB) (map[string]state, error) {
	states := map[string]state{}
	rows := store.ScanPrefix([]byte(statePrefix))
	for key, value := range rows.All() {
		lines := strings.Split(string(value), "\n")
		states[string(key[len(statePrefix):])] = state{mark: lines[0], names: lines[1:]}
	}
	return states, rows.Err()
}

// update brings the store up to date with the source: it stores the files that
// are new or changed, and removes those that are gone.
func update(store *db.DB, sources string) (*stats, error) {
	start := time.Now()
	files, err := findFiles(sources)
	if err != nil {
		return nil, err
	}
	stale, err := loadStates(store) // all, until a file is found to be the same
	if err != nil {
		return nil, err
	}
	known := len(stale)
	var changed []file
	unchanged := 0
	for _, f := range files {
		if old, ok := stale[f.path]; ok && old.mark == f.mark {
			delete(stale, f.path)
			unchanged++
		} else {
			changed = append(changed, f)
		}
	}
	// What is stale goes first, as a declaration may have moved to another file.
	if err := remove(store, stale); err != nil {
		return nil, err
	}
	written, err := storeAll(store, changed)
	if err != nil {
		return nil, err
	}
	return &stats{
		files:   len(files),
		changed: len(changed),
		stale:   known - unchanged,
		written: written,
		update:  time.Since(start),
	}, nil
}

// remove deletes, at one moment, all that is known of files.
func remove(store *db.DB, files map[string]state) error {
	batch := store.NewBatch()
	for path, known := range files {
		for _, key := range append(known.names, path, statePrefix+path) {
			if err := batch.Delete([]byte(key)); err != nil {
				return err
			}
		}
	}
	return batch.Commit()
}

// storeAll parses files and stores what is in them, on all processors at once.
// It returns the bytes written.
func storeAll(store *db.DB, files []file) (written int, err error) {
	bar := startProgress(len(files))
	defer bar.stop()
	work := make(chan file)
	sizes := make([]int, runtime.GOMAXPROCS(0))
	errs := make([]error, len(sizes))
	var workers sync.WaitGroup
	for i := range sizes {
		workers.Go(func() {
			sizes[i], errs[i] = storeSome(store, work, bar)
			for range work { // after an error: nobody waits for this worker
			}
		})
	}
	for _, f := range files {
		work <- f
	}
	close(work)
	workers.Wait()
	for i := range sizes {
		if errs[i] != nil {
			return 0, errs[i]
		}
		written += sizes[i]
	}
	return written, nil
}

// storeSome stores files from work, some of them in each batch.
func storeSome(store *db.DB, work <-chan file, bar *progress) (written int, err error) {
	batch := store.NewBatch()
	commit := func() error {
		written += batch.Size()
		defer batch.Reset()
		return batch.Commit()
	}
	for f := range work {
		if err := add(batch, f); err != nil {
			return written, fmt.Errorf("%s: %w", f.path, err)
		}
		if batch.Size() >= batchBytes {
			if err := commit(); err != nil {
				return written, err
			}
		}
		bar.step()
	}
	return written, commit()
}

// add adds to batch all that is stored of f.
func add(batch *db.Batch, f file) error {
	source, err := os.ReadFile(filepath.FromSlash(f.place))
	if err != nil {
		return err
	}
	declarations, err := parse(f, source)
	if err != nil {
		return err
	}
	state := f.mark
	for _, d := range declarations {
		if err := batch.Set([]byte(d.name), []byte(d.text)); err != nil {
			return err
		}
		state += "\n" + d.name
	}
	if err := batch.Set([]byte(f.path), source); err != nil {
		return err
	}
	return batch.Set([]byte(statePrefix+f.path), []byte(state))
}
