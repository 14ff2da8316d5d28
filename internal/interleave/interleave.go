// Package interleave runs the goroutines of a test one at a time, from yield point
// to yield point, in an order that follows from a seed: so that interleavings
// which a machine meets once in a billion steps are searched for, and one that
// breaks something is found again.
//
// It works in a bubble of package testing/synctest, whose clock stands still while
// anything can run: what the goroutines of a store do in the background, by tickers
// too, is part of the order. Read Run first.
package interleave

import (
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulkdb/db/internal/testhooks"
)

// A Scheduler lets one goroutine run at a time. A goroutine is
//
//	parked     at a yield point: it has a place in parked
//	chosen     it runs to its next yield point, to its end, or until it is blocked
//	blocked    on a channel, a condition or a timer: until another one, or the
//	           clock, wakes it; then it runs beside the chosen one to its next yield
//	           point
//
// Two policies are drawn from, each good at finding other mistakes: any parked
// goroutine is as likely as any other; or each has a priority that changes at a few
// steps only, so that some are held up for long while others go far
// (Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees of
// Finding Bugs", ASPLOS 2010).
type Scheduler struct {
	// Owned by the goroutine of Run.
	random     *rand.Rand
	byPriority bool
	known      map[uint64]*goroutine
	steps      int

	mu     sync.Mutex
	parked []parked // Guarded by mu.
	over   bool     // Guarded by mu. Yield points do not hold anybody up any more.
}

type parked struct {
	id     uint64 // of the goroutine, as the runtime counts
	spins  bool
	resume chan struct{}
}

// A goroutine is one that has been parked: the index tells which in the order of
// their first times, which is the same in each run.
type goroutine struct {
	index    int
	priority float64
}

const (
	stepsMax     = 200_000
	changeOdds   = 40  // with priorities: of so many steps one changes one
	tickOdds     = 150 // of so many steps one lets time pass
	tickDuration = 5 * time.Millisecond
)

// Run runs test in a bubble. It opens what it tests and returns the functions that
// are to run at once, and one that is called, free of the scheduler, when they have
// returned. It reports how many steps were taken.
func Run(t *testing.T, seed uint64, test func(t *testing.T) (workers []func(), after func())) (steps int) {
	// On one processor, and with the collector off, those that are woken together
	// come in one order, unless the system holds up the process: what runs for ten
	// milliseconds is preempted.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	synctest.Test(t, func(t *testing.T) {
		s := &Scheduler{random: rand.New(rand.NewPCG(seed, 0x5eed)), known: map[uint64]*goroutine{}}
		s.byPriority = s.random.IntN(2) == 0
		testhooks.SetYield(s.yield)
		defer testhooks.SetYield(nil)
		odds := rand.New(rand.NewPCG(seed, 0x0dd5))
		var mu sync.Mutex
		testhooks.SetRandom(func() uint32 {
			mu.Lock()
			defer mu.Unlock()
			return odds.Uint32()
		})
		defer testhooks.SetRandom(nil)
		s.setOver(true)
		workers, after := test(t)
		s.setOver(false)
		var running sync.WaitGroup
		for _, w := range workers {
			running.Go(func() {
				s.yield("start")
				w()
			})
			synctest.Wait()
		}
		done := make(chan struct{})
		go func() {
			running.Wait()
			close(done)
		}()
		s.schedule(t, done)
		after()
		steps = s.steps
	})
	return steps
}

// yield parks the calling goroutine until it is chosen.
func (s *Scheduler) yield(point string) {
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return
	}
	p := parked{id: goroutineID(), spins: strings.HasSuffix(point, testhooks.Spin), resume: make(chan struct{})}
	s.parked = append(s.parked, p)
	s.mu.Unlock()
	<-p.resume
}

// goroutineID returns the number that the runtime gave the calling goroutine.
func goroutineID() (id uint64) {
	var b [64]byte
	for _, c := range b[len("goroutine "):runtime.Stack(b[:], false)] {
		if c < '0' || c > '9' {
			break
		}
		id = 10*id + uint64(c-'0')
	}
	return id
}

// schedule chooses, one after the other, until the workers are done.
func (s *Scheduler) schedule(t *testing.T, done chan struct{}) {
	for {
		synctest.Wait()
		select {
		case <-done:
			s.setOver(true)
			return
		default:
		}
		if s.steps++; s.steps > stepsMax {
			t.Errorf("interleave: no end after %d steps", s.steps)
			s.setOver(true)
			<-done
			return
		}
		p, ok := s.choose()
		if !ok {
			time.Sleep(tickDuration) // only the clock can wake anybody
			continue
		}
		close(p.resume)
		if p.spins || s.random.IntN(tickOdds) == 0 {
			synctest.Wait()
			time.Sleep(min(tickDuration, time.Duration(1+s.random.IntN(100))*time.Microsecond*time.Duration(s.random.IntN(50))))
		}
	}
}

// choose takes one that is parked. One that spins is taken only if all do: it
// waits for another.
func (s *Scheduler) choose() (p parked, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.parked) == 0 {
		return p, false
	}
	for _, x := range s.parked {
		if s.known[x.id] == nil {
			s.known[x.id] = &goroutine{index: len(s.known), priority: s.random.Float64()}
		}
	}
	slices.SortFunc(s.parked, func(a, b parked) int { return s.known[a.id].index - s.known[b.id].index })
	best, count := -1, 0
	for i, x := range s.parked {
		if x.spins {
			continue
		}
		count++
		switch {
		case best < 0:
			best = i
		case s.byPriority && s.known[x.id].priority > s.known[s.parked[best].id].priority:
			best = i
		case !s.byPriority && s.random.IntN(count) == 0:
			best = i
		}
	}
	if best < 0 {
		best = s.random.IntN(len(s.parked))
	}
	p = s.parked[best]
	s.parked = slices.Delete(s.parked, best, best+1)
	if s.random.IntN(changeOdds) == 0 {
		s.known[p.id].priority = s.random.Float64() - 1 // below all that were never changed
	}
	return p, true
}

// setOver makes yield points hold nobody up, or do so again.
func (s *Scheduler) setOver(over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = over
	if over {
		for _, p := range s.parked {
			close(p.resume)
		}
		s.parked = nil
	}
}
