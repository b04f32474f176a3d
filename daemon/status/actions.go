package status

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"armarium/daemon/lockss"
)

// Errors of Actions, wrapped by the node, so that the faces know what to tell.
var (
	ErrBusy    = errors.New("is already being done")
	ErrRefused = errors.New("cannot be done")
)

// An AddRequest says which collection to add: a title of the title list, or a plugin with the
// values of its definitional parameters.
type AddRequest struct {
	Title  string            `json:"title,omitempty"` // key of the title
	Plugin string            `json:"plugin,omitempty"`
	Params map[string]string `json:"params,omitempty"`
	Name   string            `json:"name,omitempty"`
	Disk   string            `json:"disk,omitempty"` // path of a disk; "": the one with most space
}

// Check finds what is missing in the request itself.
func (r AddRequest) Check() error {
	if (r.Title == "") == (r.Plugin == "") {
		return fmt.Errorf("give either a title or a plugin with its params: %w", ErrRefused)
	}
	if r.Title != "" && len(r.Params) > 0 {
		return fmt.Errorf("a title has its own params, give none: %w", ErrRefused)
	}
	return nil
}

// Actions is what the faces may ask of the node. Errors wrap ErrNotFound, ErrBusy or
// ErrRefused where they apply; an error with a method Hint() string tells what to do about it.
type Actions interface {
	// AddAU adds a collection and returns when it is in the configuration.
	AddAU(ctx context.Context, r AddRequest) (lockss.AUID, error)
	// Crawl asks for a crawl now, whatever the plugin's interval is; it does not wait for it.
	Crawl(ctx context.Context, au lockss.AUID) error
	// Poll asks for a poll now; it does not wait for it.
	Poll(ctx context.Context, au lockss.AUID) error
}

// Hint finds what an error advises to do, or "".
func Hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// A Trail is the audit trail: Record appends to it durably. The zero Trail keeps nothing.
type Trail struct {
	Record func(ActionRow) error
	Log    *slog.Logger // nil: discard
}

// Add records what a user did from an address. What it cannot record it logs: what was done
// is done.
func (t Trail) Add(user string, from netip.Addr, what, object string, err error) {
	row := ActionRow{At: time.Now(), User: user, What: what, Object: object, Result: "ok"}
	if from.IsValid() {
		row.User += " from " + from.String()
	}
	if err != nil {
		row.Result = err.Error()
	}
	log := t.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log.Info("action", "user", row.User, "what", what, "object", object, "result", row.Result)
	if t.Record == nil {
		return
	}
	if err := t.Record(row); err != nil {
		log.Error("the audit trail could not be written", "what", what, "object", object, "err", err)
	}
}
