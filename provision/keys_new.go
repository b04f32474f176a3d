package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"armarium/daemon/keystore"
)

func keysNewCommand() *cobra.Command {
	var s keystore.Subject
	var kind, format, out, certOut, passFile string
	var days int
	var force bool
	c := &cobra.Command{
		Use:   "new ALIAS --name NAME [flags]",
		Short: "Make a key pair that signs plugins",
		Long: `Makes a key with a self-signed certificate: the keystore ALIAS.keystore, which stays with you, and the
certificate ALIAS.cer (PEM), which goes into the network's keystore (armarium keys trust). By convention
the alias is your name and "-lockss". The password is read from --password-file, from
ARMARIUM_KEYSTORE_PASSWORD, or asked for; it needs 6 characters or more.`,
		Example: `  armarium keys new alice-lockss --name "Alice Example" --organization "Example University Library" --country US
  armarium keys new alice-lockss --name "Alice Example" --format pkcs12 -o alice.p12`,
		Args: args(1, 1, "one alias, such as alice-lockss"),
		RunE: func(cmd *cobra.Command, a []string) error {
			if s.Name == "" {
				return usagef("say with --name whose key it is")
			}
			if strings.ContainsAny(a[0], "/\\") {
				return usagef("alias %q: letters, digits and hyphens only", a[0])
			}
			if out == "" {
				out = a[0] + map[string]string{"jks": ".keystore", "pkcs12": ".p12", "pem": ".pem"}[format]
			}
			if certOut == "" {
				certOut = a[0] + ".cer"
			}
			for _, f := range []string{out, certOut} {
				if err := mayWrite(f, force); err != nil {
					return err
				}
			}
			pass := ""
			var err error
			switch format {
			case "jks", "pkcs12":
				if pass, err = password(cmd, "ARMARIUM_KEYSTORE_PASSWORD", passFile, "New password for "+out+": "); err != nil {
					return err
				}
			case "pem":
			default:
				return usagef("--format %q: use jks, pkcs12 or pem", format)
			}
			now := time.Now()
			k, err := keystore.NewKeyPair(a[0], s, keystore.KeyKind(kind), now, time.Duration(days)*24*time.Hour)
			if err != nil {
				return err
			}
			var b []byte
			switch format {
			case "jks":
				b, err = k.JKS(pass, now)
			case "pkcs12":
				b, err = k.PKCS12(pass)
			default:
				b, err = k.PEM()
			}
			if err != nil {
				return err
			}
			if err := writeFile(out, b, os.FileMode(0o600), force); err != nil {
				return err
			}
			if err := writeFile(certOut, keystore.EncodeTrustPEM([]keystore.Entry{{Alias: k.Alias, Cert: k.Cert()}}), 0o644, force); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: private key, keep it safe\n%s: certificate of %s, valid until %s\nSHA-256 %s\n", out, certOut,
				k.Cert().Subject, k.Cert().NotAfter.Format(time.DateOnly), keystore.Fingerprint(k.Cert()))
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&s.Name, "name", "", "full name of the holder")
	f.StringVar(&s.Unit, "unit", "", "organizational unit")
	f.StringVar(&s.Organization, "organization", "", "organization")
	f.StringVar(&s.City, "city", "", "city")
	f.StringVar(&s.State, "state", "", "state or province")
	f.StringVar(&s.Country, "country", "", "country, two letters")
	f.StringVar(&kind, "kind", string(keystore.RSA2048), "rsa2048, rsa3072, rsa4096 or ec256")
	f.StringVar(&format, "format", "jks", "jks (for all nodes and tools), pkcs12, or pem (without password)")
	f.IntVar(&days, "days", int(keystore.DefaultValidity/(24*time.Hour)), "validity")
	f.StringVarP(&out, "output", "o", "", "keystore to write (default: ALIAS.keystore)")
	f.StringVar(&certOut, "cert", "", "certificate to write (default: ALIAS.cer)")
	f.StringVar(&passFile, "password-file", "", "file whose first line is the new password")
	f.BoolVar(&force, "force", false, "replace existing files")
	return c
}
