package au

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"armarium/daemon/lockss"
)

// Entry is one AU of the configuration, as au.txt has it (titledb.md 3).
type Entry struct {
	PluginID   string
	Params     map[string]string // of the plugin, definitional or not
	Root       string            // the disk, "/cache0/gamma" or "local:/cache0/gamma"; "": the first
	Disabled   bool              // content is kept, nothing is done with it
	Name       string            // as it was when the AU was added; "": that of the plugin
	Attributes map[string]string // of its title list entry

	// ID is the id under which it is configured, "" when it comes from elsewhere than au.txt.
	// An entry whose parameters give another one is refused.
	ID lockss.AUID
}

const (
	auPrefix    = "org.lockss.au."
	keyRoot     = "reserved.repository"
	keyDisabled = "reserved.disabled"
	keyName     = "reserved.displayName"
)

// Entries takes the AUs out of properties org.lockss.au.<plugin key>.<AU key>.<parameter>,
// sorted by id. Other properties are passed over; an error names a key that fits nothing.
func Entries(props map[string]string) ([]Entry, []error) {
	found := map[lockss.AUID]*Entry{}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(props)) {
		rest, ok := strings.CutPrefix(key, auPrefix)
		if !ok {
			continue
		}
		// Plugin and AU keys have no dots of their own: they are '|' or %2E there.
		plugin, rest, ok1 := strings.Cut(rest, ".")
		au, param, ok2 := strings.Cut(rest, ".")
		if !ok1 || !ok2 || plugin == "" || param == "" {
			errs = append(errs, fmt.Errorf("%s: want %s<plugin key>.<AU key>.<parameter>", key, auPrefix))
			continue
		}
		id := lockss.AUID(plugin + "&" + au)
		e := found[id]
		if e == nil {
			e = &Entry{PluginID: id.PluginID(), Params: map[string]string{}, ID: id}
			found[id] = e
		}
		switch v := props[key]; param {
		case keyRoot:
			e.Root = v
		case keyDisabled:
			switch strings.ToLower(v) {
			case "true", "yes", "y", "on", "1":
				e.Disabled = true
			}
		case keyName:
			e.Name = v
		default:
			e.Params[param] = v
		}
	}
	var entries []Entry
	for _, id := range slices.Sorted(maps.Keys(found)) {
		entries = append(entries, *found[id])
	}
	return entries, errs
}

// Props is the entry as properties of au.txt, under its ID.
func (e Entry) Props() map[string]string {
	prefix := auPrefix + strings.Replace(string(e.ID), "&", ".", 1) + "."
	props := map[string]string{prefix + keyDisabled: strconv.FormatBool(e.Disabled)}
	if e.Root != "" {
		props[prefix+keyRoot] = e.Root
	}
	if e.Name != "" {
		props[prefix+keyName] = e.Name
	}
	for k, v := range e.Params {
		props[prefix+k] = v
	}
	return props
}

// notDefinitional are parameters that never make the identity of an AU (plugins.md 4.3).
var notDefinitional = []string{"au_closed", "pub_down", "pub_never", "protocol_version", "crawl_proxy", "nc_interval", "pause_time", "user_pass"}

// guessID is the id of an entry that names none and whose plugin is not there to tell which
// parameters count: all that may.
func (e Entry) guessID() lockss.AUID {
	params := maps.Clone(e.Params)
	maps.DeleteFunc(params, func(k, _ string) bool { return slices.Contains(notDefinitional, k) })
	return lockss.NewAUID(e.PluginID, params)
}

func (e Entry) equal(o Entry) bool {
	return e.PluginID == o.PluginID && e.Root == o.Root && e.Disabled == o.Disabled && e.Name == o.Name &&
		maps.Equal(e.Params, o.Params) && maps.Equal(e.Attributes, o.Attributes)
}
