package pagecache

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
)

// A crashStore is a cache whose pages are strings that begin with a name of their
// own. A step allocates, changes, replaces or frees pages, several at once or
// one.
type crashStore struct {
	cache *Cache
	pids  map[string]PID // by name
}

func openCrashStore(fs vfs.FS) (crashtest.Store, error) {
	o := tiny(fs, stringPages{})
	o.SegmentBytes, o.BufferBytes, o.SnapshotBytes = 4<<10, 1<<10, 4<<10
	c, err := Open(o)
	if err != nil {
		return nil, err
	}
	return &crashStore{cache: c}, nil
}

type stepKind uint8

const (
	stepAllocate stepKind = iota
	stepMerge
	stepSet
	stepFree
	stepTogether
)

// A planned is what a step does to a store with pages of these names.
type planned struct {
	kind  stepKind
	names []string
	data  string
	sync  bool
	evict bool
}

const nameBytes = 17

func planStep(s crashtest.Step, names []string) planned {
	rng := rand.New(rand.NewPCG(s.Seed, 1))
	p := planned{kind: stepKind(rng.IntN(5)), sync: rng.IntN(4) == 0, evict: rng.IntN(10) == 0}
	p.data = strings.Repeat(string(rune('a'+rng.IntN(26))), rng.IntN(300)) + fmt.Sprintf("%x", s.Seed)
	if len(names) < 4 {
		p.kind = stepAllocate
	} else if p.kind == stepAllocate && len(names) > 20 {
		p.kind = stepFree
	}
	slices.Sort(names)
	rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	switch p.kind {
	case stepAllocate:
		p.names = []string{fmt.Sprintf("%016x:", s.Seed)}
	case stepTogether:
		p.names = names[:1+rng.IntN(min(6, len(names)))]
	default:
		p.names = names[:1]
	}
	return p
}

func applyPlanned(state crashtest.State, s crashtest.Step) {
	p := planStep(s, slices.Collect(maps.Keys(state)))
	for _, name := range p.names {
		switch p.kind {
		case stepAllocate, stepSet:
			state[name] = name + p.data
		case stepMerge, stepTogether:
			state[name] += p.data
		case stepFree:
			delete(state, name)
		}
	}
}

func (c *crashStore) Step(steps []crashtest.Step) (func(crashtest.Step) bool, error) {
	p := planStep(steps[len(steps)-1], slices.Collect(maps.Keys(c.pids)))
	if err := c.cache.Throttle(); err != nil {
		return nil, err
	}
	if err := c.change(p); err != nil {
		return nil, err
	}
	if p.evict {
		c.cache.evictAll()
	}
	if !p.sync {
		return nil, nil
	}
	return crashtest.All, c.cache.Sync()
}

func (c *crashStore) change(p planned) error {
	if p.kind == stepAllocate {
		pid, _, err := c.cache.Allocate([]byte(p.names[0] + p.data))
		if err == nil {
			c.pids[p.names[0]] = pid
		}
		return err
	}
	if p.kind == stepTogether {
		return c.together(p)
	}
	name := p.names[0]
	pid := c.pids[name]
	_, key, err := c.cache.Get(pid)
	if err != nil {
		return err
	}
	switch p.kind {
	case stepMerge:
		_, err = c.cache.Merge(pid, key, []byte(p.data))
	case stepSet:
		_, err = c.cache.Set(pid, key, []byte(name+p.data))
	case stepFree:
		if err = c.cache.Free(pid, key); err == nil {
			delete(c.pids, name)
		}
	}
	return err
}

func (c *crashStore) together(p planned) error {
	u := c.cache.Begin()
	for _, name := range p.names {
		v, err := u.Acquire(c.pids[name])
		if err != nil {
			u.Discard()
			return err
		}
		u.Append(v, []byte(p.data), 0)
	}
	_, err := u.Commit()
	return err
}

func (c *crashStore) Find(steps []crashtest.Step) ([]crashtest.Step, error) {
	got := crashtest.State{}
	c.pids = map[string]PID{}
	for pid := PID(1); pid <= c.cache.pids.max(); pid++ {
		page, _, err := c.cache.Get(pid)
		if errors.Is(err, ErrGone) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("page %d: %w", pid, err)
		}
		if len(page) < nameBytes {
			return nil, fmt.Errorf("page %d is %q", pid, page)
		}
		name := string(page[:nameBytes])
		if _, twice := got[name]; twice {
			return nil, fmt.Errorf("page %q is there twice", name)
		}
		got[name], c.pids[name] = string(page), pid
	}
	return crashtest.Prefix(steps, got, applyPlanned)
}

func (c *crashStore) Close() error { return c.cache.Close() }

var crashLayer = crashtest.Layer{Name: "pagecache", Open: openCrashStore, Failed: log.ErrFailed}

// TestPowerLoss loses power at every file operation, those of the cleaner and of
// page-table snapshots among them.
func TestPowerLoss(t *testing.T) {
	result, err := crashtest.Power{Seed: crashtest.Seed(t), Points: crashtest.Points(2500), Steps: 100}.Run(crashLayer)
	crashtest.Report(t, "pagecache", result, err)
}

// TestEveryFault fails every file operation, in every way.
func TestEveryFault(t *testing.T) {
	result, err := crashtest.Faults{Seed: crashtest.Seed(t), Steps: 20}.Run(crashLayer)
	crashtest.Report(t, "pagecache", result, err)
}
