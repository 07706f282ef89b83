# The kernel and the initial file system of virtual machines, by the program that makes them everywhere else.
{
  runCommand,
  python3,
  kernel,
  # The name of the image in it, which is another one for each processor.
  kernelFile,
  busybox,
}:
runCommand "claude-sandbox-guest-${kernel.version}" { nativeBuildInputs = [ python3 ]; } ''
  python3 ${../../roles/sandbox/files/guest}/build.py $out \
    --image ${kernel}/${kernelFile} \
    --modules ${kernel.modules or kernel} \
    --busybox ${busybox}/bin/busybox
''
