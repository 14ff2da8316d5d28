package crashtest

import (
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"sync"

	"github.com/pulkdb/db/internal/vfs"
)

// Power says how a run loses power. Zero values mean the defaults.
type Power struct {
	Seed   int64
	Points int // the run ends when so many losses of power were tried
	Steps  int // of one opening; default 40
	Clones int // at each changing operation; default 2
	Depth  int // losses of power that follow each other; default 3
	// Planted says that the store is wrong on purpose: what is found is not kept.
	Planted bool
	// Every is how many changing operations there are to one of the losses that
	// follow a first one; default 60.
	Every int
}

// A Result counts what was tried.
type Result struct {
	Points  int // losses of power
	Nested  int // of these, in a store that had lost power before and was not closed since
	InOpen  int // of these, while it was being opened
	Faults  int // operations that failed
	Latched int // stores that refused to write any more
	ReadOn  int // of these, such that all could be read
	Reopens int // stores that were opened and looked through
	Looks   int // reads beside writers, of a harness of another kind
}

func (r Result) String() string {
	return fmt.Sprintf("%d crash points (%d nested, %d during recovery), %d faults injected (%d stores failed for good, of which %d could be read whole), %d stores checked",
		r.Points, r.Nested, r.InOpen, r.Faults, r.Latched, r.ReadOn, r.Reopens)
}

// A run is one Power or Faults under way.
type run struct {
	layer Layer
	power Power

	mu     sync.Mutex
	rnd    *rand.Rand // Guarded by mu.
	result Result     // Guarded by mu.
	err    error      // Guarded by mu. The first.
}

// Run loses power again and again.
func (p Power) Run(layer Layer) (Result, error) {
	setDefault(&p.Steps, 40)
	setDefault(&p.Clones, 2)
	setDefault(&p.Depth, 3)
	setDefault(&p.Every, 60)
	r := &run{layer: layer, power: p, rnd: rand.New(rand.NewSource(p.Seed))}
	for !r.done() {
		mem := vfs.NewMem()
		mem.Seed(r.random())
		var steps []Step
		// Some openings one after the other; then from nothing again.
		for range 4 {
			s := &session{run: r, mem: mem, steps: steps, depth: 0}
			s.play(p.Steps)
			if r.done() {
				break
			}
			steps = s.known()
			mem = s.mem
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.result, fmt.Errorf("%s, seed %d, after %d crash points: %w", layer.Name, p.Seed, r.result.Points, r.err)
	}
	return r.result, nil
}

func setDefault(field *int, value int) {
	if *field == 0 {
		*field = value
	}
}

func (r *run) done() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err != nil || r.result.Points >= r.power.Points
}

func (r *run) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil && err != nil {
		r.err = err
	}
}

func (r *run) intn(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rnd.Intn(n)
}

func (r *run) random() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rnd.Int63()
}

func (r *run) count(f func(*Result)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.result)
}

// A session is one opening of a store, in which power may be lost.
type session struct {
	run   *run
	mem   *vfs.Mem
	depth int
	trail []string // the losses of power before it

	mu    sync.Mutex
	steps []Step // Guarded by mu. What may be in the store; replaced, never changed in place.
	open  bool   // Guarded by mu. Recovery is over.
	dead  bool   // Guarded by mu. The process has ended: every operation fails.
}

func (s *session) fail(err error) {
	s.run.fail(fmt.Errorf("%s: %w", strings.Join(append(s.trail, "then"), "; "), err))
}

// known returns the steps that may be in the store.
func (s *session) known() []Step {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.steps
}

func (s *session) isDead() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dead
}

// play opens the store, looks what it finds, makes steps, and leaves it: closed,
// killed, or without power.
func (s *session) play(steps int) {
	r := s.run
	fs := vfs.NewFault(s.mem, s.before)
	store, err := r.layer.Open(fs)
	if err != nil {
		s.fail(s.run.keep(s.mem, fmt.Errorf("open: %w", err)))
		return
	}
	if err := s.look(store); err != nil {
		s.fail(s.run.keep(s.mem, fmt.Errorf("what is found: %w", err)))
		s.leave(store, true)
		return
	}
	for range steps {
		if r.done() {
			break
		}
		if err := s.step(store); err != nil {
			s.fail(fmt.Errorf("step: %w", err))
			break
		}
	}
	s.leave(store, r.intn(2) == 0)
	if s.depth == 0 && r.intn(3) == 0 {
		s.mem = s.mem.CrashClone(r.random())
	}
}

// look makes the steps that the open store shows those that it has, durably.
func (s *session) look(store Store) error {
	found, err := store.Find(s.known())
	if err != nil {
		return err
	}
	s.found(found, true)
	s.run.count(func(r *Result) { r.Reopens++ })
	return nil
}

// found says which of the steps were found, in a store just opened or not.
func (s *session) found(found []Step, opened bool) {
	found = slices.Clone(found)
	for i := range found {
		found[i].Durable = found[i].Durable || opened
	}
	s.mu.Lock()
	s.steps, s.open = found, true
	s.mu.Unlock()
}

// acknowledge says which of the steps are durable.
func (s *session) acknowledge(which func(Step) bool) {
	steps := slices.Clone(s.known())
	for i := range steps {
		steps[i].Durable = steps[i].Durable || which(steps[i])
	}
	s.mu.Lock()
	s.steps = steps
	s.mu.Unlock()
}

// step makes one more step.
func (s *session) step(store Store) error {
	s.mu.Lock()
	next := Step{Number: len(s.steps), Seed: uint64(s.run.random())}
	if n := len(s.steps); n > 0 {
		next.Number = s.steps[n-1].Number + 1
	}
	s.steps = append(slices.Clip(s.steps), next)
	steps := s.steps
	s.mu.Unlock()
	acknowledged, err := store.Step(steps)
	if err != nil {
		return err
	}
	if acknowledged != nil {
		s.acknowledge(acknowledged)
	}
	return nil
}

// leave closes the store, or ends its process at once.
func (s *session) leave(store Store, kill bool) {
	if kill {
		s.mu.Lock()
		s.dead = true
		s.mu.Unlock()
		_ = store.Close() // joins its goroutines; nothing reaches the files
		s.mem.Kill()
		return
	}
	if err := store.Close(); err != nil {
		s.fail(fmt.Errorf("close: %w", err))
	}
	s.acknowledge(All)
}

// before is called before each file operation, by any goroutine.
func (s *session) before(op vfs.Op) error {
	if s.isDead() {
		return vfs.ErrDead
	}
	r := s.run
	if !op.Changes() || r.done() || s.depth >= r.power.Depth {
		return nil
	}
	clones := r.power.Clones
	if s.depth > 0 {
		if r.intn(r.power.Every) != 0 {
			return nil
		}
		clones = 1
	}
	for range clones {
		s.lose(op)
	}
	return nil
}

// lose loses power now, and goes on in a clone.
func (s *session) lose(op vfs.Op) {
	r := s.run
	seed := r.random()
	if r.intn(5) == 0 {
		seed = 0
	}
	// What is acknowledged before the loss must be there; what is begun
	// before its end may be.
	s.mu.Lock()
	least, open := s.steps, s.open
	s.mu.Unlock()
	clone := s.mem.CrashClone(seed)
	s.mu.Lock()
	steps, meanwhile := slices.Clone(s.steps), s.open
	s.mu.Unlock()
	if meanwhile != open {
		// Recovery ended while the clone was made: it is not known whether
		// what recovery dropped, or what was begun since, is in it.
		return
	}
	for i := range steps {
		steps[i].Durable = i < len(least) && least[i].Durable
	}
	r.count(func(r *Result) {
		r.Points++
		if s.depth > 0 {
			r.Nested++
		}
		if !open {
			r.InOpen++
		}
	})
	next := &session{run: r, mem: clone, steps: steps, depth: s.depth + 1}
	next.trail = append(slices.Clip(s.trail), fmt.Sprintf("power lost before %v, seed %d", op, seed))
	next.play(r.intn(6))
}
