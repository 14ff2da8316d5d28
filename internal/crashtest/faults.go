package crashtest

import (
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/vfs"
)

// ErrInjected is wrapped by every injected error, beside the system's.
var ErrInjected = errors.New("injected")

// Faults says how file operations fail. Zero values mean the defaults.
type Faults struct {
	Seed  int64
	Steps int // of each of two openings; default 12
	Base  int // steps in the store that is not empty to begin with; default 120
	// Planted says that the store is wrong on purpose: what is found is not kept.
	Planted bool
	Every   int // fail only every so-manieth operation; default 1, and 29 in debug builds
}

// A lasting says what fails after the operation that failed first.
type lasting uint8

const (
	once     lasting = iota // nothing
	diskFull                // all that needs space
	diskDead                // everything

	lastings
)

func (l lasting) String() string { return [...]string{"once", "disk full", "disk dead"}[l] }

// failures are the ways in which an operation can fail.
func failures(op vfs.Op) []error {
	eio := fmt.Errorf("%w: %v: %w", ErrInjected, op, syscall.EIO)
	full := fmt.Errorf("%w: %v: %w", ErrInjected, op, syscall.ENOSPC)
	switch op.Kind {
	case vfs.OpRead:
		return []error{eio, &vfs.Partial{N: op.Size / 2, Err: eio}}
	case vfs.OpWrite:
		return []error{eio, &vfs.Partial{N: op.Size / 2, Err: full}, &vfs.Partial{N: min(op.Size-1, 100), Err: full}, &vfs.Partial{N: op.Size, Err: eio}}
	case vfs.OpOpen:
		if !op.Changes() {
			return []error{eio, fmt.Errorf("%w: %v: %w", ErrInjected, op, syscall.EMFILE)}
		}
		return []error{eio, full, &vfs.Late{Err: eio}}
	case vfs.OpRename, vfs.OpTruncate, vfs.OpMkdirAll, vfs.OpRemove, vfs.OpSyncDir:
		return []error{eio, full, &vfs.Late{Err: eio}}
	case vfs.OpSync:
		return []error{eio, full}
	}
	return []error{eio}
}

func needsSpace(op vfs.Op) bool {
	switch op.Kind {
	case vfs.OpWrite, vfs.OpMkdirAll, vfs.OpRename:
		return true
	case vfs.OpOpen:
		return op.Changes()
	}
	return false
}

// Run fails every operation of a workload of two openings of a new store, and of
// one opening of a store that has been in use, where more is read, cleaned, and
// given back.
func (f Faults) Run(layer Layer) (Result, error) {
	setDefault(&f.Steps, 12)
	if invariant.Debug || testing.Short() {
		setDefault(&f.Every, 29)
	}
	setDefault(&f.Every, 1)
	power := Power{Seed: f.Seed, Points: 1 << 30, Depth: 2, Every: 20, Planted: f.Planted}
	r := &run{layer: layer, power: power, rnd: rand.New(rand.NewSource(f.Seed))}
	setDefault(&f.Base, 120)
	used := &session{run: r, mem: vfs.NewMem(), depth: power.Depth}
	if err := used.fill(f.Base); err != nil {
		return r.result, fmt.Errorf("%s, seed %d: %w", layer.Name, f.Seed, err)
	}
	for l := range lastings {
		every := f.Every
		if l != once {
			every *= lastingEvery
		}
		f.each(r, f.Every, func(index int64, variant int) int {
			fault := &fault{run: r, openings: 2, steps: f.Steps, index: index, variant: variant, lasting: l}
			return fault.try(&session{run: r, mem: vfs.NewMem(), depth: power.Depth})
		})
		f.each(r, every, func(index int64, variant int) int {
			fault := &fault{run: r, openings: 1, steps: f.Steps, index: index, variant: variant, lasting: l}
			return fault.try(&session{run: r, mem: used.mem.CrashClone(0), steps: used.known(), depth: power.Depth})
		})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.result, fmt.Errorf("%s, seed %d, after %d faults: %w", layer.Name, f.Seed, r.result.Faults, r.err)
	}
	return r.result, nil
}

// fill makes steps in a new store, and closes it.
func (s *session) fill(steps int) error {
	store, err := s.run.layer.Open(s.mem)
	if err != nil {
		return err
	}
	err = s.look(store)
	for i := 0; i < steps && err == nil; i++ {
		err = s.step(store)
	}
	if err = errors.Join(err, store.Close()); err == nil {
		s.acknowledge(All)
	}
	return err
}

// In a store in use, failures that last are tried at every so-manieth operation:
// they differ little from one to the next.
const lastingEvery = 5

// each calls try for every index, or one in so many, and for every variant of what it can do, until
// there is none, which try says.
func (f Faults) each(r *run, every int, try func(index int64, variant int) (variants int)) {
	for i := int64(0); !r.done(); i += int64(every) {
		variants := 1
		for v := 0; v < variants && !r.done(); v++ {
			variants = try(i, v)
		}
		if variants == 0 {
			return
		}
	}
}

// A fault is one workload in which one operation fails, at least.
type fault struct {
	run      *run
	openings int
	steps    int // of each
	index    int64
	variant  int
	lasting  lasting
	fs       *vfs.Fault

	mu       sync.Mutex
	variants int    // Guarded by mu. In how many ways the operation can fail; 0: there is none.
	op       vfs.Op // Guarded by mu. That failed first.
}

// inject fails the operation, and what fails because of it.
func (f *fault) inject(op vfs.Op) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case op.Index == f.index:
		ways := failures(op)
		f.variants, f.op = len(ways), op
		if f.lasting == diskFull && !needsSpace(op) {
			f.variants = 1 // nothing fails here: the next one will
			return nil
		}
		f.run.count(func(r *Result) { r.Faults++ })
		return ways[min(f.variant, len(ways)-1)]
	case f.variants == 0:
		return nil
	case f.lasting == diskDead:
		return failures(op)[0]
	case f.lasting == diskFull && needsSpace(op):
		ways := failures(op)
		return ways[min(1, len(ways)-1)]
	}
	return nil
}

func (f *fault) happened() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.variants > 0
}

// check returns err as a failure of the run unless an injected fault explains it.
func (f *fault) check(what string, err error) error {
	if err == nil || f.happened() && errors.Is(err, ErrInjected) {
		return nil
	}
	return fmt.Errorf("%s: an error that does not name its cause: %w", what, err)
}

// try runs the workload in the store of s, and looks what is left. It returns in
// how many ways the operation can fail, or 0 if there is none of this index.
func (f *fault) try(s *session) (variants int) {
	r, mem := f.run, s.mem
	clones := 2
	if len(s.known()) > 0 {
		clones = 1 // a store in use takes its time
	}
	mem.Seed(r.random())
	f.fs = vfs.NewFault(mem, f.inject)
	err := f.workload(s)
	if err == nil && f.fs.OpenFiles() != 0 {
		err = fmt.Errorf("%d files stay open", f.fs.OpenFiles())
	}
	f.mu.Lock()
	s.trail = []string{fmt.Sprintf("operation %d fails (%v, variant %d, %v)", f.index, f.op, f.variant, f.lasting)}
	variants = f.variants
	f.mu.Unlock()
	if err != nil {
		s.fail(r.keep(mem, err))
		return variants
	}
	if variants == 0 {
		return 0
	}
	mem.Kill()
	for range clones {
		clone := &session{run: r, mem: mem.CrashClone(r.random()), steps: s.known(), depth: r.power.Depth}
		clone.trail = append(slices.Clip(s.trail), "power lost")
		clone.play(3)
	}
	// The same system, which may show what no disk has.
	again := &session{run: r, mem: mem, steps: s.known(), depth: r.power.Depth - 1}
	again.trail = append(slices.Clip(s.trail), "opened again")
	again.play(4)
	for range clones {
		clone := &session{run: r, mem: mem.CrashClone(int64(r.intn(3))), steps: again.known(), depth: r.power.Depth}
		clone.trail = append(slices.Clip(again.trail), "power lost")
		clone.play(3)
	}
	return variants
}

// workload opens, makes steps and closes. It returns what is wrong, not what was
// injected.
func (f *fault) workload(s *session) error {
	for range f.openings {
		store, err := f.run.layer.Open(f.fs)
		if err != nil {
			return f.check("open", err)
		}
		seen, err := f.look(s, store, true)
		if err != nil {
			_ = store.Close()
			return err
		}
		failed := !seen
		for i := 0; i < f.steps && !failed; i++ {
			if failed, err = f.step(s, store); err != nil {
				_ = store.Close()
				return err
			}
		}
		err = store.Close()
		if err == nil && !failed {
			s.acknowledge(All)
			continue
		}
		return f.check("close", err)
	}
	return nil
}

// look reads everything, and reports whether it could.
func (f *fault) look(s *session, store Store, opened bool) (seen bool, err error) {
	for range 3 {
		found, err := store.Find(s.known())
		if err == nil {
			s.found(found, opened)
			return true, nil
		}
		if err := f.check("read", err); err != nil && !errors.Is(err, f.run.layer.Failed) {
			return false, err
		}
	}
	return false, nil
}

// step makes a step, and reports whether it is the last: the store has failed
// for good, or what it holds cannot be read.
func (f *fault) step(s *session, store Store) (failed bool, err error) {
	err = s.step(store)
	switch {
	case err == nil:
		return false, nil
	case !errors.Is(err, f.run.layer.Failed):
		if err := f.check("step", err); err != nil {
			return false, err
		}
		seen, err := f.look(s, store, false)
		return !seen, err
	}
	if err := f.check("step", err); err != nil {
		return true, err
	}
	for range 3 {
		if _, err := store.Step(s.known()); !errors.Is(err, f.run.layer.Failed) {
			return true, fmt.Errorf("a step after the store has failed: %v", err)
		}
	}
	f.run.count(func(r *Result) { r.Latched++ })
	known := s.known()
	if _, err := store.Find(known); err == nil {
		f.run.count(func(r *Result) { r.ReadOn++ })
	} else if !errors.Is(err, ErrInjected) && !errors.Is(err, f.run.layer.Failed) {
		return true, fmt.Errorf("read after the store has failed: %w", err)
	}
	return true, nil
}
