package crashtest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/pulkdb/db/internal/vfs"
)

// A Step is one change of a store. What it does is the layer's choice, made by
// Number and Seed alone; no two steps of a run have the same Seed.
type Step struct {
	Number  int // how many steps came before it, in what the store went through
	Seed    uint64
	Durable bool // it must be there from now on
}

// A Layer says how a store is opened.
type Layer struct {
	Name string
	Open func(fs vfs.FS) (Store, error)
	// Failed is the error that everything which writes must wrap once a write
	// has failed for good.
	Failed error
}

// A Store is an open store, used by one goroutine.
type Store interface {
	// Step makes the last of the steps. If it returns acknowledged, those of the
	// steps for which that is true are durable.
	Step(steps []Step) (acknowledged func(Step) bool, err error)
	// Find reads all there is, and returns those of the steps that it shows the
	// effect of. It is an error if a durable one is missing, if something is
	// there in part or that was never written, or if the order was not kept.
	Find(steps []Step) ([]Step, error)
	Close() error
}

// All acknowledges every step.
func All(Step) bool { return true }

// A State is what a store holds, for layers whose steps are in one order.
type State map[string]string

// Prefix finds after how many of the steps a store holds got: what survives is a
// prefix. apply changes a state as one step does.
func Prefix(steps []Step, got State, apply func(State, Step)) ([]Step, error) {
	least := 0
	for i, s := range steps {
		if s.Durable {
			least = i + 1
		}
	}
	state := State{}
	for _, s := range steps[:least] {
		apply(state, s)
	}
	nearest := difference(state, got)
	for n := least; ; n++ {
		if maps.Equal(state, got) {
			return steps[:n:n], nil
		}
		if n == len(steps) {
			break
		}
		apply(state, steps[n])
		if d := difference(state, got); len(d) < len(nearest) {
			nearest = d
		}
	}
	return nil, fmt.Errorf("is what no prefix of %d to %d steps leaves; the nearest differs in %d: %s", least, len(steps), len(nearest), clip(nearest))
}

// difference lists the keys whose values differ.
func difference(want, got State) []string {
	var d []string
	for k, v := range want {
		if w, ok := got[k]; !ok {
			d = append(d, fmt.Sprintf("%q is missing", k))
		} else if v != w {
			d = append(d, fmt.Sprintf("%q is %.60q, want %.60q", k, w, v))
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			d = append(d, fmt.Sprintf("%q should not be there", k))
		}
	}
	slices.Sort(d)
	return d
}

func clip(list []string) []string { return list[:min(len(list), 5)] }

// keep writes a file system that was found wrong to a directory, whose name it
// adds to err.
func (r *run) keep(mem *vfs.Mem, err error) error {
	if r.power.Planted {
		return err
	}
	dir, derr := os.MkdirTemp("", "pulk-crash-")
	if derr == nil {
		derr = mem.Export(dir)
	}
	return errors.Join(fmt.Errorf("%w (kept in %s)", err, dir), derr)
}
