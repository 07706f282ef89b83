# What derivations call: stand-ins for the hooks of nixpkgs.

# makeWrapper PROGRAM FILE [--set-default NAME VALUE | --set NAME VALUE | --prefix NAME : VALUE | --suffix NAME : VALUE]…
makeWrapper() {
  program=$1 file=$2
  shift 2
  mkdir -p "$(dirname "$file")"
  {
    echo "#!$shell"
    while [ $# -gt 0 ]; do
      case $1 in
      --set) echo "export $2='$3'"; shift 3 ;;
      --set-default) echo "export $2=\"\${$2-$3}\""; shift 3 ;;
      --prefix) echo "export $2='$4'\"\${$2:+$3\$$2}\""; shift 4 ;;
      --suffix) echo "export $2=\"\${$2:+\$$2$3}\"'$4'"; shift 4 ;;
      *) echo "makeWrapper: $1 is not known" >&2; exit 1 ;;
      esac
    done
    echo "exec '$program' \"\$@\""
  } >"$file"
  chmod +x "$file"
}

installManPage() {
  mkdir -p "$out/share/man/man1"
  cp "$@" "$out/share/man/man1"
}

installShellCompletion() {
  while [ $# -gt 0 ]; do
    case $1 in
    --cmd) name=$2 ;;
    --bash) mkdir -p "$out/share/bash-completion/completions"; cp "$2" "$out/share/bash-completion/completions/$name.bash" ;;
    --zsh) mkdir -p "$out/share/zsh/site-functions"; cp "$2" "$out/share/zsh/site-functions/_$name" ;;
    --fish) mkdir -p "$out/share/fish/vendor_completions.d"; cp "$2" "$out/share/fish/vendor_completions.d/$name.fish" ;;
    esac
    shift 2
  done
}

# link FOLDER PLACE: show what is in a folder; what is there already stays.
link() {
  mkdir -p "$2"
  for entry in "$1"/*; do
    place=$2/${entry##*/}
    if [ -d "$entry" ]; then
      link "$entry" "$place"
    elif [ ! -e "$place" ]; then
      ln -s "$entry" "$place"
    fi
  done
}
