package boot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"armarium/daemon/platform"
)

// A step is one stage of the boot. Its number and name are what consoles show and tests
// expect. A step that fails or is late is reported, and the boot goes on: whether the daemon
// may start is decided by the refusals that steps leave.
type step struct {
	number   int
	name     string
	deadline time.Duration // 0: none
	run      func(context.Context) (note string, err error)
}

// note is an error that is none: the step did what it could.
type note string

func (n note) Error() string { return string(n) }

// runSteps runs the list in order. A step gets a context that ends at its deadline; one
// that does not heed it holds up the boot, so steps that wait must watch it.
func runSteps(ctx context.Context, list []step, report func(platform.Step)) {
	for _, s := range list {
		if ctx.Err() != nil {
			return
		}
		report(runStep(ctx, s))
	}
}

func runStep(ctx context.Context, s step) platform.Step {
	start := time.Now()
	if s.deadline > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, s.deadline, fmt.Errorf("not done after %v", s.deadline))
		defer cancel()
	}
	text, err := s.run(ctx)
	r := platform.Step{Number: s.number, Name: s.name, Result: "ok", Took: time.Since(start), Note: text}
	if n, ok := errors.AsType[note](err); ok {
		r.Result, r.Note = "note", string(n)
	} else if err != nil {
		r.Result, r.Note = "FAILED", err.Error()
	}
	return r
}

// stepLine is the line of a step that is done: "[03] stick … ok 1.2 s: sda".
func stepLine(s platform.Step) string {
	line := fmt.Sprintf("[%02d] %s … %s %.1f s", s.Number, s.Name, s.Result, s.Took.Seconds())
	if s.Note != "" {
		line += ": " + s.Note
	}
	return line
}
