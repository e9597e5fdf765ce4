"""From the intensity of the sample to the measured pattern: corrections, angles, profile and Compton scattering."""
